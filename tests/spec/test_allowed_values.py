"""What inputs may hold and which sizes dimensions can have, as a spec declares it, and how nonsense is told."""

from __future__ import annotations

import pytest

from orchestrator.errors import SpecInvalid
from orchestrator.spec.signature import Allowed, Signature, Tensor, declared_signature
from tests.spec.conftest import BASE, Load, Shown


def _input(rest: str, dtype: str = "float32") -> str:
    return BASE.replace("dtype: float32, shape: [batch, 1, 8, 8]", f"dtype: {dtype}, shape: [batch, 1, 8, 8], {rest}")


def _dim(dim: str) -> str:
    return BASE.replace("[batch, 1, 8, 8]", "[batch, 1, 8, width]").replace("64}}", f"64}}, width: {dim}}}")


def test_a_range_and_values_reach_the_signature(load: Load) -> None:
    ranged = declared_signature(load(_input("range: [0, 256]", "int64")).spec)
    assert ranged.inputs[0].allowed == Allowed(range=(0, 256))
    texts = declared_signature(load(_input("values: [a, 'b'], enforce: true", "string")).spec)
    assert texts.inputs[0].allowed == Allowed(values=("a", "b"), enforce=True)
    for signature in (ranged, texts):
        assert Signature.from_json(signature.as_json()) == signature


def test_the_ends_of_a_dimension_are_multiples(load: Load) -> None:
    signature = declared_signature(load(_dim("{min: 1, max: 500, multiple_of: 32}")).spec)
    assert signature.dims["width"] == (32, 480)
    assert signature.multiples == {"width": 32}
    assert Signature.from_json(signature.as_json()) == signature
    assert [signature.fitting("width", size) for size in (1, 32, 63, 64, 1000)] == [32, 32, 32, 64, 480]
    assert [signature.covering("width", size) for size in (1, 32, 33, 64, 1000)] == [32, 32, 64, 64, 480]
    assert list(signature.sizes("width")) == list(range(32, 481, 32))


def test_without_the_new_keys_a_signature_is_written_as_before() -> None:
    signature = Signature((Tensor("x", "int64", ("n", 2)),), (), {"n": (1, 4)}, "n")
    assert signature.as_json() == {
        "inputs": [{"name": "x", "dtype": "int64", "shape": ["n", 2]}],
        "outputs": [],
        "dims": {"n": [1, 4]},
        "batch": "n",
    }


def test_no_multiple_between_the_ends_of_a_range(shown: Shown) -> None:
    assert shown(_dim("{min: 33, max: 50, multiple_of: 32}")) == (
        "error[E121]: `width` has no size from 33 to 50 that is a multiple of 32\n"
        "  --> spec.yaml:14:75\n"
        "   |\n"
        "14 |   dims: {batch: {min: 1, max: 64}, width: {min: 33, max: 50, multiple_of: 32}}\n"
        "   |                                                                           ^^\n"
        "   |                                                                       the nearest are 32 and 64\n"
        "   = help: extend the range, as to `max: 64`, or lower `multiple_of`"
    )


def test_a_fraction_for_integers_is_marked(shown: Shown) -> None:
    assert shown(_input("range: [0, 2.0]", "int64")) == (
        "error[E137]: `image` is int64 and cannot hold `2.0`\n"
        "  --> spec.yaml:11:71\n"
        "   |\n"
        "11 |     - {name: image, dtype: int64, shape: [batch, 1, 8, 8], range: [0, 2.0]}\n"
        "   |                                                                       ^^^ not a whole number\n"
        "   = help: write a whole number: 2"
    )


@pytest.mark.parametrize(
    ("rest", "dtype", "code", "message", "label"),
    [
        ("range: [5, 3]", "float32", "E121", "`image` ranges from 5 to 3", "the first number is greater than the second"),
        ("range: [0, 256]", "uint8", "E137", "`image` is uint8 and cannot hold `256`", "uint8 holds numbers from 0 to 255"),
        ("range: [-70000, 1]", "float16", "E137", "`image` is float16 and cannot hold `-70000`", "from -65504.0 to 65504.0"),
        ("range: [0, 1], values: [0]", "int64", "E137", "`image` has both a `range` and `values`", "`values` alone"),
        ("range: [0, 1]", "bool", "E137", "`image` is bool, which has no range", "only numbers have a range"),
        ("range: [0, 1]", "string", "E137", "`image` is string, which has no range", "only numbers have a range"),
        ("range: [0]", "int64", "E107", "`range` must have at least 2 entries, not 1", ""),
        ("range: [0, 1, 2]", "int64", "E107", "`range` must have at most 2 entries, not 3", ""),
        ("range: [0, yes]", "int64", "E105", "`yes` is not a valid value for `range[1]`", "expected a number"),
        ("range: [0, true]", "int64", "E105", "`true` is not a valid value for `range[1]`", "expected a number"),
        ("range: 5", "int64", "E104", "`range` must be a list, not `5`", "write `[5]`"),
        ("values: []", "int64", "E107", "`values` must have at least 1 entry, not 0", ""),
        ("values: [[1]]", "int64", "E105", "a list is not a valid value for `values[0]`", "expected a number"),
        ("values: [1, 1]", "int64", "E122", "duplicate value `1`", ""),
        ("values: [1, true]", "int64", "E137", "`image` is int64 and cannot hold `true`", "not a number"),
        ("values: ['1']", "int64", "E137", "`image` is int64 and cannot hold `1`", "not a number"),
        ("values: [1]", "string", "E137", "`image` is string and cannot hold `1`", "not a text"),
        ("values: [1]", "bool", "E137", "`image` is bool and cannot hold `1`", "not `true` or `false`"),
        ("values: [.5, 1.0e+39]", "float32", "E137", "`image` is float32 and cannot hold `1e+39`", "float32 holds"),
        ("enforce: true", "int64", "E137", "`image` has neither a `range` nor `values`", "nothing to check"),
    ],
)  # fmt: skip
def test_every_kind_of_nonsense_has_its_message(
    load: Load, rest: str, dtype: str, code: str, message: str, label: str
) -> None:
    with pytest.raises(SpecInvalid) as caught:
        load(_input(rest, dtype))
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.message) == (code, message)
    assert label in diagnostic.label
    assert diagnostic.span is not None
    assert diagnostic.span.line == 11


@pytest.mark.parametrize(
    ("rest", "dtype"),
    [
        ("range: [0, 256]", "int64"),
        ("range: [-1, 1.5]", "float32"),
        ("range: [3, 3]", "uint8"),
        ("values: [true]", "bool"),
        ("values: [8000, 16000]", "int64"),
        ("values: [0.5, 1]", "float16"),
    ],
)
def test_sensible_ranges_and_values_are_taken(load: Load, rest: str, dtype: str) -> None:
    load(_input(rest, dtype))


def test_measured_batch_sizes_are_multiples(load: Load) -> None:
    text = BASE.replace("max: 64", "max: 64, multiple_of: 6")
    assert load(text).spec.benchmark.batch_sizes == [6, 30]
    with pytest.raises(SpecInvalid) as caught:
        load(text + "benchmark: {batch_sizes: [6, 8]}\n")
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.message) == ("E123", "batch size 8 is not a size of `batch`")
