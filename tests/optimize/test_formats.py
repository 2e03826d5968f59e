"""The table of formats is complete: every function it names exists, every combination is made or refused."""

from __future__ import annotations

import importlib
from typing import get_args

import pytest

from orchestrator.backends.table import BACKENDS
from orchestrator.frameworks.runtime import RUNTIMES
from orchestrator.optimize.formats import FORMATS, Refused, Way, variant_name
from orchestrator.optimize.sources import SOURCES
from orchestrator.spec.models import Format, Precision

pytestmark = pytest.mark.frameworks

FUNCTIONS = sorted(
    {
        way.function
        for row in FORMATS.values()
        for way in (*row.convert.values(), *row.precisions.values())
        if isinstance(way, Way) and way.function is not None
    }
    | {row.runtime for row in FORMATS.values()}
)


def test_every_format_of_the_spec_has_a_row() -> None:
    assert set(FORMATS) == set(get_args(Format))


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_covers_every_source_and_precision(name: str) -> None:
    row = FORMATS[name]

    assert row.name == name
    assert set(row.convert) == set(SOURCES)
    assert set(row.precisions) == set(get_args(Precision))
    assert row.backend in BACKENDS
    for way in (*row.convert.values(), *row.precisions.values()):
        if isinstance(way, Refused):
            assert way.reason
            assert not way.reason.endswith(".")
        elif way.function is not None:
            assert way.tools


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_that_is_named_exists(function: str) -> None:
    module, _, attribute = function.partition(":")

    assert callable(getattr(importlib.import_module(module), attribute))


def test_workers_open_each_format_with_the_runtime_of_its_row() -> None:
    assert {row.name: row.runtime for row in FORMATS.values()} == RUNTIMES


def test_files_of_formats_differ() -> None:
    assert len({row.file for row in FORMATS.values()}) == len(FORMATS)


def test_a_variant_is_named_by_format_and_precision() -> None:
    assert variant_name("onnx", "int8") == "onnx-int8"
