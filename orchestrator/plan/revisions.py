"""Revisions of the steps that no table names. One rises when what its step does, or refuses, changes.

Those of sources and of what is made from them are beside their functions, in `optimize/sources.py` and
`optimize/formats.py`. A stored result or refusal is reused only for the revision that produced it.
"""

from __future__ import annotations

__all__ = ["BENCHMARK_RUNTIME", "BENCHMARK_SERVER", "INSPECT_TORCH", "RENDER", "SAMPLES", "SELECT", "VERIFY"]

VERIFY = 4
BENCHMARK_RUNTIME = 4
BENCHMARK_SERVER = 5
SELECT = 5
RENDER = 2

INSPECT_TORCH = 3
"""What `mlo init` reads from files of PyTorch."""

SAMPLES = 2
"""The random samples that `mlo init` writes."""
