"""The revisions of steps that are in no table. Increase one when the results or refusals of its step change.

The revisions of sources, conversions and passes are beside their functions, in `optimize/sources.py`, `optimize/formats.py`
and `optimize/passes.py`. A stored result or refusal is reused only for the revision that produced it.
"""

from __future__ import annotations

__all__ = ["BENCHMARK_ROUND", "BENCHMARK_RUNTIME", "BENCHMARK_SERVER", "PROBE", "RENDER", "SAMPLES", "SELECT", "VERIFY"]

# The int8 pass of ONNX models judges by the code of `verify` too, to leave out layers: raise its revision with this one.
VERIFY = 8
BENCHMARK_ROUND = 3
BENCHMARK_RUNTIME = 8
BENCHMARK_SERVER = 17
SELECT = 19
RENDER = 4

PROBE = 4
"""What `mlo init` finds out by calling a model."""

SAMPLES = 2
"""The random samples that `mlo init` writes."""
