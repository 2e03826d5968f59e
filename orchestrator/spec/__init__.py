"""Specs: YAML with positions, typed models, platform files, diagnostics, JSON Schema."""
