"""Reading inputs from files and sending them to a server: mistakes are reported with file, input and expected value."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import DeployFailed, UsageError
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.targets.client import infer, read_requests

if TYPE_CHECKING:
    from tests.targets.conftest import Deployment, StandIn

_X = Tensor("x", "float32", ("batch", 2))
_SIGNATURE = Signature((_X,), (), {"batch": (1, 4)}, "batch")
_TWO = Signature((_X, Tensor("k", "int64", ("batch",))), (), {"batch": (1, 4)}, "batch")


def read_inputs(file: Path, signature: Signature) -> dict[str, Any]:
    """The inputs of a file that holds one request."""
    requests = read_requests(file, signature)
    (inputs,) = requests.inputs
    assert not requests.counted
    return inputs


@pytest.mark.parametrize(
    "document",
    [
        {"x": [[1, 2], [3, 4.5]]},
        {"inputs": {"x": [[1, 2], [3, 4.5]]}},
        {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4.5]}]},
        {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3, 4.5]]}], "id": "7"},
    ],
)
def test_json_of_every_form(tmp_path: Path, document: Any) -> None:
    file = tmp_path / "in.json"
    file.write_text(json.dumps(document), encoding="utf-8-sig")
    x = read_inputs(file, _SIGNATURE)["x"]
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[1, 2], [3, 4.5]])


@pytest.mark.parametrize(
    "document",
    [
        {"x": [[1, 2]], "gain": 2.5, "step": 3, "word": "a"},
        {
            "inputs": [
                {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
                {"name": "gain", "shape": [], "datatype": "FP32", "data": [2.5]},
                {"name": "step", "shape": [], "datatype": "INT64", "data": [3]},
                {"name": "word", "shape": [], "datatype": "BYTES", "data": ["a"]},
            ]
        },
        None,
    ],
)
def test_single_numbers_and_texts_have_no_dimensions(tmp_path: Path, document: Any) -> None:
    lone = (Tensor("gain", "float32", ()), Tensor("step", "int64", ()), Tensor("word", "string", ()))
    signature = Signature((Tensor("x", "float32", ("n", 2)), *lone), (), {"n": (1, 4)}, None)
    file = tmp_path / ("in.npz" if document is None else "in.json")
    if document is None:
        np.savez(file, x=np.ones((1, 2)), gain=2.5, step=3, word=np.bytes_(b"a"))
    else:
        file.write_text(json.dumps(document))
    found = read_inputs(file, signature)
    assert [(type(found[t.name]), found[t.name].shape, found[t.name].tolist()) for t in lone] == [
        (np.ndarray, (), 2.5),
        (np.ndarray, (), 3),
        (np.ndarray, (), "a"),
    ]


def test_numbers_that_are_not_finite_are_texts_in_json(tmp_path: Path) -> None:
    file = tmp_path / "in.json"
    file.write_text('{"x": [["NaN", "Infinity"], ["-Infinity", null], [1, 2.5]]}')
    x = read_inputs(file, _SIGNATURE)["x"]
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, np.array([[np.nan, np.inf], [-np.inf, np.nan], [1, 2.5]], np.float32))


def test_npz_with_more_arrays_than_inputs(tmp_path: Path) -> None:
    file = tmp_path / "in.npz"
    np.savez(file, x=np.ones((9, 2)), labels=np.zeros(9))
    inputs = read_inputs(file, _SIGNATURE)  # more rows than one call takes: the client sends several
    assert list(inputs) == ["x"]
    assert inputs["x"].shape == (9, 2)


def test_a_single_row_gets_its_batch_dimension(tmp_path: Path) -> None:
    file = tmp_path / "in.json"
    file.write_text('{"k": 3, "x": [1, 2]}')
    inputs = read_inputs(file, _TWO)
    assert {name: array.shape for name, array in inputs.items()} == {"x": (1, 2), "k": (1,)}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "it is not JSON: Expecting property name"),
        ("[1]", "it must hold"),
        ('{"y": [[1, 2]]}', "input x is missing; the file holds y"),
        ('{"x": [[1, 2]], "y": 1}', "the model has no input y"),
        ('{"x": [[1, 2], [3]]}', "input x: its rows have different lengths"),
        ('{"x": [["a", "b"]]}', "input x: it holds a value that is not a number"),
        ('{"x": [["nan", 1]]}', "input x: it holds a value that is not a number"),
        ('{"x": [[true, "NaN"]]}', "input x: it holds a value that is not a number"),
        ('{"x": [[{}, 1]]}', "input x: it holds a value that is not a number"),
        ('{"x": {"a": 1}}', "input x: it holds a value that is not a number"),
        ('{"x": [[1, 2, 3]]}', "input x: its shape is [1, 3], but the model takes [batch, 2]"),
        ('{"x": 1}', "input x: its shape is [], but the model takes [batch, 2]"),
        ('{"x": [[1e39, 1]]}', "input x: it holds numbers that float32 cannot hold"),
        ('{"inputs": [{"name": "x"}]}', 'every entry of "inputs" needs "name", "shape" and "data"'),
        ('{"inputs": [{"name": "x", "shape": [3, 2], "data": [1]}]}', "1 elements do not fit the shape [3, 2]"),
        ("[" * 100000, "nested too deep"),
    ],
)
def test_json_that_does_not_fit(tmp_path: Path, content: str, cause: str) -> None:
    file = tmp_path / "in.json"
    file.write_text(content)
    with pytest.raises(UsageError) as failure:
        read_inputs(file, _SIGNATURE)
    diagnostic = failure.value.diagnostics[0]
    assert str(file) in diagnostic.message
    assert cause in diagnostic.cause
    assert "x: float32 [batch, 2]" in diagnostic.remedy


_TEXTS = Signature((Tensor("t", "string", ("batch", 2)),), (), {"batch": (1, 4)}, "batch")


@pytest.mark.parametrize(
    "document",
    [
        {"t": [["a", "schön"], ["", "1"]]},
        {"inputs": [{"name": "t", "shape": [2, 2], "datatype": "BYTES", "data": ["a", "schön", "", "1"]}]},
    ],
)
def test_texts_in_json(tmp_path: Path, document: Any) -> None:
    file = tmp_path / "in.json"
    file.write_text(json.dumps(document))
    np.testing.assert_array_equal(read_inputs(file, _TEXTS)["t"], [["a", "schön"], ["", "1"]])


@pytest.mark.parametrize("texts", [np.array([["a", "schön"]]), np.strings.encode(np.array([["a", "schön"]]), "utf-8")])
def test_texts_in_npz_are_unicode_or_utf_8(tmp_path: Path, texts: Any) -> None:
    np.savez(tmp_path / "in.npz", t=texts)
    np.testing.assert_array_equal(read_inputs(tmp_path / "in.npz", _TEXTS)["t"], [["a", "schön"]])


@pytest.mark.parametrize(
    ("array", "cause"),
    [
        (np.ones((1, 2)), "input t: it holds float64, but the model takes texts"),
        (np.array([[b"\xff", b"a"]]), "input t: its bytes are not UTF-8"),
    ],
)
def test_npz_without_texts_is_refused(tmp_path: Path, array: Any, cause: str) -> None:
    np.savez(tmp_path / "in.npz", t=array)
    with pytest.raises(UsageError) as failure:
        read_inputs(tmp_path / "in.npz", _TEXTS)
    assert failure.value.diagnostics[0].cause.startswith(cause)


@pytest.mark.parametrize("content", ['{"t": [["a", 1]]}', '{"t": [[null, "a"]]}', '{"t": 3}'])
def test_json_without_texts_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "in.json"
    file.write_text(content)
    with pytest.raises(UsageError) as failure:
        read_inputs(file, _TEXTS)
    assert failure.value.diagnostics[0].cause == "input t: it holds a value that is not text"


def test_texts_for_a_model_of_numbers_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.array([["1", "2"]]))
    with pytest.raises(UsageError) as failure:
        read_inputs(tmp_path / "in.npz", _SIGNATURE)
    assert "but the model takes float32" in failure.value.diagnostics[0].cause


@pytest.mark.parametrize(("k", "fits"), [("[1]", True), ("[1.0]", True), ("[1.5]", False), ("[true]", True)])
def test_whole_numbers_stay_whole(tmp_path: Path, k: str, fits: bool) -> None:
    file = tmp_path / "in.json"
    file.write_text(f'{{"x": [[1, 2]], "k": {k}}}')
    if fits:
        assert read_inputs(file, _TWO)["k"].dtype == np.int64
    else:
        with pytest.raises(UsageError, match="does not hold"):
            read_inputs(file, _TWO)


def test_inputs_of_different_batches_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "in.json"
    file.write_text('{"x": [[1, 2]], "k": [1, 2]}')
    with pytest.raises(UsageError) as failure:
        read_inputs(file, _TWO)
    assert failure.value.diagnostics[0].cause == "input k: batch is 2 here and 1 in another input"


def test_invalid_files(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 garbage")
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe\x00")
    np.savez(tmp_path / "pickled.npz", x=np.array([object()], dtype=object))
    (tmp_path / "folder.json").mkdir()
    for name in ("bad.npz", "bad.json", "pickled.npz", "missing.npz", "missing.json", "folder.json", "in.txt"):
        with pytest.raises(UsageError) as failure:
            read_inputs(tmp_path / name, _SIGNATURE)
        diagnostic = failure.value.diagnostics[0]
        assert (diagnostic.code, name in diagnostic.message) == ("E614", True)
        assert diagnostic.cause


def test_a_file_that_cannot_be_read_is_not_said_to_have_the_wrong_content(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name, cause, remedy in (
        ("missing.npz", "No such file or directory", "give the path of a file with x: "),
        ("folder.json", "Is a directory", "give the path of a file with x: "),
    ):
        with pytest.raises(UsageError) as failure:
            read_inputs(tmp_path / name, _SIGNATURE)
        (found,) = failure.value.diagnostics
        assert found.message == f"{tmp_path / name} cannot be read"
        assert found.cause == cause
        assert found.remedy.startswith(remedy)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    file = tmp_path_factory.mktemp("any") / "in.json"
    file.write_text(json.dumps({"x": value}))
    try:
        x = read_inputs(file, _SIGNATURE)["x"]
    except UsageError:
        return
    assert (x.dtype, x.ndim, x.shape[1]) == (np.float32, 2, 2)


def _ask(endpoint: str, backend: StandIn, timeout: float = 30.0) -> DeployFailed:
    with pytest.raises(DeployFailed) as failure:
        infer(endpoint, backend, "m", {"x": np.ones((1, 2))}, signature=_SIGNATURE, timeout=timeout)
    return failure.value


def test_nothing_listens(stand_in: StandIn) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
        diagnostic = _ask(endpoint, stand_in).diagnostics[0]
    assert (diagnostic.code, diagnostic.message) == ("E610", f"nothing listens at {endpoint}")
    assert "mlo apply" in diagnostic.remedy


_ANSWERED = Signature(_SIGNATURE.inputs, (Tensor("y", "float64", ("batch", 2)),), {"batch": (1, 4)}, "batch")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (400, "E611", "correct the inputs"),
        (401, "E611", "let the first token in the file of `serving.auth` be one that the server accepts"),
        (413, "E611", "send fewer rows in one call"),
        (429, "E611", "send it again in a moment, or fewer requests at a time"),
        (503, "E612", "run `mlo logs m`"),
    ],
)
def test_the_servers_reason_is_shown_with_what_helps(
    served: Callable[..., Deployment], stand_in: StandIn, status: int, code: str, told: str
) -> None:
    """A server that fails a request of two rows, and answers one."""
    faulty = served(fails=status, fails_from_rows=2)
    asked: dict[str, Any] = {"signature": _ANSWERED}
    with pytest.raises(DeployFailed) as failure:
        infer(faulty.endpoint, stand_in, "m", {"x": np.ones((2, 2))}, **asked)
    diagnostic = failure.value.diagnostics[0]
    assert (diagnostic.code, diagnostic.cause, diagnostic.remedy) == (code, "the stand-in says no", told)
    assert str(status) in diagnostic.message
    if code == "E612":
        assert list(faulty.target.logs(1))
    infer(faulty.endpoint, stand_in, "m", {"x": np.ones((1, 2))}, **asked)


@pytest.mark.processes
def test_a_deployment_that_is_stopped_answers_once_it_is_applied_again(
    deployment: Deployment, stand_in: StandIn
) -> None:
    endpoint = deployment.deploy(1)
    deployment.target.stop()
    diagnostic = _ask(endpoint, stand_in).diagnostics[0]
    assert (diagnostic.code, "`mlo apply` with its spec to start it again" in diagnostic.remedy) == ("E610", True)
    infer(deployment.deploy(1), stand_in, "m", {"x": np.ones((1, 2))}, signature=_ANSWERED)


@pytest.mark.processes
def test_no_answer_in_time(deployment: Deployment, stand_in: StandIn) -> None:
    diagnostic = _ask(deployment.deploy(1, delay=1), stand_in, timeout=0.2).diagnostics[0]
    assert diagnostic.code == "E613"
    assert "within 0.2 s" in diagnostic.message
    assert "wait longer with --timeout" in diagnostic.remedy
    endpoint = deployment.target.url()
    infer(endpoint, stand_in, "m", {"x": np.ones((1, 2))}, signature=_ANSWERED, timeout=20)


_STEPS = Signature(
    (Tensor("x", "float32", ("time", 1, 2)),), (Tensor("y", "float32", ("time", 1, 3)),), {"time": (1, 9)}, None
)


def test_without_a_batch_a_file_may_hold_several_requests(tmp_path: Path) -> None:
    x = np.arange(40, dtype=np.float32).reshape(5, 4, 1, 2)
    np.savez(tmp_path / "in.npz", x=x, labels=np.zeros(5))
    several = read_requests(tmp_path / "in.npz", _STEPS)
    assert several.counted
    np.testing.assert_array_equal([inputs["x"] for inputs in several.inputs], x)
    np.savez(tmp_path / "in.npz", x=x[0])
    np.testing.assert_array_equal(read_inputs(tmp_path / "in.npz", _STEPS)["x"], x[0])


def test_each_of_several_requests_has_to_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((2, 10, 1, 2), np.float32))
    with pytest.raises(UsageError, match="does not hold the model's inputs") as caught:
        read_requests(tmp_path / "in.npz", _STEPS)
    assert "time is 10, but the model takes 1 to 9" in caught.value.diagnostics[0].cause
