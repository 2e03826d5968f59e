"""Candidates: which variants of a model are made, and which one is picked."""
