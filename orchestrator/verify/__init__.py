"""Parity of a variant with its source: comparisons, gates and the step that judges them."""
