"""Shared by the sources of all frameworks: samples, edge cases, checks, and the output of the import step."""
