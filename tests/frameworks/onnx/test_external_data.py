"""Tensors of ONNX models in files beside them: found, used, and never read from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx.graph import tensors
from tests.frameworks.onnx.case import (
    WEIGHTS,
    WEIGHTS_PLACE,
    X,
    floats,
    linear,
    model,
    outside,
    refused,
    run_check,
    run_inspect,
    saved,
    stored,
    wide,
)

pytestmark = pytest.mark.frameworks


def _outside(tmp_path: Path, location: str = "weights.bin", **more: Any) -> Path:
    return saved(linear(outside("w", WEIGHTS, location, **more)), tmp_path / "model")


def test_weights_in_another_file_are_found_and_used(tmp_path: Path) -> None:
    path = _outside(tmp_path, "data/weights.bin", offset=8)
    (path.parent / "data").mkdir()
    (path.parent / "data" / "weights.bin").write_bytes(b"12345678" + WEIGHTS.tobytes() + b"more")
    assert run_inspect(path, tmp_path).json("inspection.json")["files"] == ["data/weights.bin"]
    ran = run_check(path, tmp_path, samples={"x": X})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], X @ WEIGHTS, rtol=1e-5)


@pytest.mark.parametrize("more", [{}, {"length": None}, {"offset": None}, {"offset": 4096}, {"offset": 1}])
def test_large_weights_are_used_without_copying_them(tmp_path: Path, more: dict[str, Any]) -> None:
    weights = wide()
    proto = linear(outside("w", weights, **more))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = weights.shape[1]
    path = saved(proto, tmp_path / "model")
    (path.parent / "weights.bin").write_bytes(bytes(more.get("offset") or 0) + weights.tobytes())
    ran = run_check(path, tmp_path, samples={"x": X})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], X @ weights, rtol=1e-4, atol=1e-5)


def _everywhere(location: str) -> Any:
    """Tensors in another file at every place of a model that can hold one."""
    one = np.full(3, 1, np.float32)

    def branch(name: str, tensor: Any) -> Any:
        add = helper.make_node("Add", ["flat", f"{name}_w"], [f"{name}_y"])
        tensor.name = f"{name}_w"
        return helper.make_graph([add], name, [], [floats(f"{name}_y", None)], [tensor])

    constant = helper.make_node("Constant", [], ["c"], value=outside("c", one, location))
    sparse = onnx.SparseTensorProto(
        values=outside("s", one, location), indices=outside("i", np.arange(3), location, offset=12), dims=[3]
    )
    function = helper.make_function(
        "mine",
        "AddOne",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["one"], value=outside("one", one, location)),
            helper.make_node("Add", ["a", "one"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["flat"]),
        helper.make_node(
            "If",
            ["yes"],
            ["z"],
            then_branch=branch("then", outside("t", one, location)),
            else_branch=branch("else", outside("e", one, location)),
        ),
        constant,
        helper.make_node("Constant", [], ["s"], sparse_value=sparse),
        helper.make_node("Add", ["z", "c"], ["z2"]),
        helper.make_node("Add", ["z2", "s"], ["z3"]),
        helper.make_node("AddOne", ["z3"], ["y"], domain="mine"),
    ]
    return model(
        nodes,
        [floats("x", ["N", 4])],
        [floats("y", ["N", 3])],
        [stored("w", WEIGHTS), stored("yes", np.array(True))],
        domains={"mine": 1},
        functions=[function],
    )


def test_tensors_in_another_file_are_found_in_every_kind_of_field(tmp_path: Path) -> None:
    path = saved(_everywhere("more/bits.bin"), tmp_path / "model")
    (path.parent / "more").mkdir()
    (path.parent / "more" / "bits.bin").write_bytes(np.ones(3, np.float32).tobytes() + np.arange(3).tobytes())
    assert run_inspect(path, tmp_path).json("inspection.json")["files"] == ["more/bits.bin"]
    ran = run_check(path, tmp_path, samples={"x": X})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], X @ WEIGHTS + 4, rtol=1e-5)


@pytest.mark.parametrize("place", range(6))
def test_tensors_in_every_kind_of_field_are_checked(tmp_path: Path, place: int) -> None:
    proto = _everywhere("bits.bin")
    (tmp_path / "bits.bin").write_bytes(np.ones(3, np.float32).tobytes() + np.arange(3).tobytes())
    out = [tensor for tensor in tensors(proto) if tensor.data_location == TensorProto.EXTERNAL]
    assert len(out) == 6
    next(entry for entry in out[place].external_data if entry.key == "location").value = "../secret"
    refused("E360", run_inspect, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)


@pytest.mark.parametrize("location", ["../weights.bin", "a/../../weights.bin", "/etc/passwd", ".."])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    error = refused("E360", run_inspect, _outside(tmp_path, location), tmp_path, at=WEIGHTS_PLACE)
    assert repr(location) in error.cause


def test_links_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(WEIGHTS.tobytes())
    path = _outside(tmp_path)
    here = path.parent / "weights.bin"
    here.symlink_to(secret)
    error = refused("E360", run_inspect, path, tmp_path / "1", at=WEIGHTS_PLACE)
    assert "`weights.bin` is a symbolic link" in error.cause
    here.unlink()
    here.hardlink_to(secret)
    error = refused("E360", run_inspect, path, tmp_path / "2", at=WEIGHTS_PLACE)
    assert "`weights.bin` has 2 hard links" in error.cause
    assert "cp -rL" in error.remedy


def test_a_linked_parent_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights.bin").write_bytes(WEIGHTS.tobytes())
    path = _outside(tmp_path, "data/weights.bin")
    (path.parent / "data").symlink_to(tmp_path / "elsewhere")
    error = refused("E360", run_inspect, path, tmp_path)
    assert "`data`, which leads to `data/weights.bin`, is a symbolic link" in error.cause


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = refused("E361", run_inspect, _outside(tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert error.message == "`weights.bin`, which holds tensors of the model, cannot be read"
    assert error.cause == "no such file or directory"


def test_a_folder_or_a_pipe_is_not_accepted_as_a_file_of_weights(tmp_path: Path) -> None:
    path = _outside(tmp_path)
    (path.parent / "weights.bin").mkdir()
    refused("E361", run_inspect, path, tmp_path / "1")
    (path.parent / "weights.bin").rmdir()
    os.mkfifo(path.parent / "weights.bin")
    assert "a folder or a device" in refused("E361", run_inspect, path, tmp_path / "2").cause


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"offset": 8}, "the tensor is 48 bytes from byte 8 on, but the file has 48"),
        ({"offset": 2**62}, "but the file has 48"),
        ({"length": 47}, "47 bytes in its file, but 48 by its type and shape [4, 3]"),
        ({"length": 2**60}, "48 by its type and shape"),
        ({"offset": "-8"}, "it says '-8'"),
        ({"offset": "8 "}, "it says '8 '"),
        ({"location": ""}, "it says ''"),
        ({"location": "a\0b"}, "it says 'a\\x00b'"),
    ],
)
def test_offsets_beyond_the_file_are_reported(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    location = str(more.pop("location", "weights.bin"))
    path = _outside(tmp_path, location, **more)
    (path.parent / "weights.bin").write_bytes(WEIGHTS.tobytes())
    error = refused("E361", run_inspect, path, tmp_path, at=WEIGHTS_PLACE)
    assert words in error.cause


def test_texts_cannot_be_stored_in_another_file(tmp_path: Path) -> None:
    tensor = outside("w", WEIGHTS)
    tensor.data_type = TensorProto.STRING
    refused("E361", run_inspect, saved(linear(tensor), tmp_path), tmp_path)


def test_files_of_a_training_graph_are_not_read(tmp_path: Path) -> None:
    proto = linear()
    training = proto.training_info.add()
    training.initialization.initializer.append(outside("secret", WEIGHTS, "/etc/passwd"))
    assert run_inspect(saved(proto, tmp_path), tmp_path).json("inspection.json")["files"] == []
