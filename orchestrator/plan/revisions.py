"""The revisions of steps that are in no table. Increase one when the results or refusals of its step change.

The revisions of sources, conversions and passes are beside their functions, in `optimize/sources.py` and
`optimize/formats.py`. A stored result or refusal is reused only for the revision that produced it.
"""

from __future__ import annotations

__all__ = ["BENCHMARK_RUNTIME", "BENCHMARK_SERVER", "PROBE", "RENDER", "SAMPLES", "SELECT", "VERIFY"]

VERIFY = 7
BENCHMARK_RUNTIME = 8
BENCHMARK_SERVER = 13
SELECT = 14
RENDER = 3

PROBE = 4
"""What `mlo init` finds out by calling a model."""

SAMPLES = 2
"""The random samples that `mlo init` writes."""
