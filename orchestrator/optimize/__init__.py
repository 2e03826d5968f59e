"""Candidates: which variants of a model are made, and with which backends they are tried."""
