"""Builds each kind of step from a spec, a model and the facts about the machine."""
