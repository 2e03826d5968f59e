"""The models that conversions start from."""

from __future__ import annotations

from tests.frameworks.convert_case import case

__all__ = ["case"]
