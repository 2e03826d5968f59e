"""Drafts a first spec for a model file."""
