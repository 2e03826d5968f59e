"""Targets: where a release runs."""
