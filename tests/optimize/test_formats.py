"""The table of formats is complete: every function it names exists, every combination is made or refused."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.backends.table import BACKENDS
from orchestrator.frameworks.source.runtime import RUNTIMES
from orchestrator.optimize.formats import FORMATS, Refused, Way, variant_name
from orchestrator.optimize.sources import SOURCES
from orchestrator.spec.models import Format, Precision
from orchestrator.spec.source_models import SourceKind

FUNCTIONS = sorted(
    {
        way.function
        for row in FORMATS.values()
        for way in (*row.convert.values(), *row.precisions.values())
        if isinstance(way, Way) and way.function is not None
    }
    | {row.runtime for row in FORMATS.values()}
    | {function for row in SOURCES.values() for function in (row.inspect, row.check, row.baseline) if function}
)


def test_every_format_of_the_spec_has_a_row() -> None:
    assert set(FORMATS) == set(get_args(Format))


def test_every_kind_of_source_of_the_spec_has_a_row() -> None:
    assert set(SOURCES) == set(get_args(SourceKind))


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
    """Told from the source: to import it would bring PyTorch and TensorFlow into one process."""
    module, _, attribute = function.partition(":")
    spec = importlib.util.find_spec(module)

    assert spec is not None, module
    assert spec.origin is not None, module
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    assert attribute in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_workers_open_each_format_with_the_runtime_of_its_row() -> None:
    assert {row.name: row.runtime for row in FORMATS.values()} == RUNTIMES


def test_files_of_formats_differ() -> None:
    assert len({row.file for row in FORMATS.values()}) == len(FORMATS)


def test_a_variant_is_named_by_format_and_precision() -> None:
    assert variant_name("onnx", "int8") == "onnx-int8"
