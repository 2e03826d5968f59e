"""An ONNX model that is refused: once its file or the spec is changed as the message says, it is imported."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx.signature import SERVED
from orchestrator.steps.context import StepError
from tests.frameworks.onnx.case import (
    LINEAR,
    WEIGHTS,
    floats,
    linear,
    model,
    outside,
    run_check,
    run_inspect,
    saved,
    signature,
    stored,
    value,
)

pytestmark = pytest.mark.frameworks


@dataclass(frozen=True)
class Model:
    """A user's `model.onnx`, and what the spec says of it.

    Attributes:
        weights: what the spec names, relative to the spec's folder.
        data: of `model/weights.bin`; None for no such file.
        do: what else is done in the spec's folder, before the model is read.
    """

    proto: Any = field(default_factory=linear)
    weights: str = "model/model.onnx"
    declared: Mapping[str, Any] | None = field(default_factory=lambda: LINEAR)
    names: Mapping[str, Mapping[str, str]] | None = None
    data: bytes | None = None
    do: Callable[[Path], object] = lambda _: None


Follow = Callable[[Model, StepError], Model]


def _read(given: Model, folder: Path) -> None:
    """As planning reads it, then as the import does; what the spec leaves out is taken from what was read."""
    (folder / "model").mkdir(parents=True)
    saved(given.proto, folder / "model")
    if given.data is not None:
        (folder / "model" / "weights.bin").write_bytes(given.data)
    given.do(folder)
    path = folder / given.weights
    found = run_inspect(path, folder / "read").json("inspection.json")
    own = {each["tensor"]: (each["dtype"], ["batch", *each["shape"][1:]]) for each in found["inputs"]}
    outputs = [each["tensor"] for each in found["outputs"]]
    run_check(path, folder / "read", given.declared or signature(own, outputs), given.names)


def _said(pattern: str, error: StepError) -> str:
    match = re.search(pattern, error.remedy)
    assert match, error.remedy
    return match[1]


def _with(**changes: Any) -> Follow:
    return lambda given, _: replace(given, **changes)


def _again(given: Model, _: StepError) -> Model:
    return replace(given, proto=linear())


def _cut() -> bytes:
    whole: bytes = linear().SerializeToString()
    return whole[: len(whole) * 2 // 3]


def _without(*fields: str) -> Any:
    proto = linear()
    for each in fields:
        del getattr(proto.graph, each)[:]
    return proto


def _too_new() -> bytes:
    """Of an IR version that is not known, and with a field that is not known either."""
    content: bytes = linear(ir=99).SerializeToString()
    return content + bytes([0xF2, 0x3F, 1, 0])


def _of_version(given: Model, error: StepError) -> Model:
    proto = onnx.ModelProto.FromString(given.proto)
    proto.ir_version = int(_said(r"set `model\.ir_version = (\d+)`", error))
    return replace(given, proto=proto)


def _elsewhere(folder: Path) -> None:
    """The tensor's file lies beside the model's folder, as the model says."""
    (folder / "weights.bin").write_bytes(WEIGHTS.tobytes())


def _beside(given: Model, error: StepError) -> Model:
    """Move the file, then run the lines of Python that are named."""
    lines = _said(r"let the model name it there: (m = .+)$", error)

    def move(folder: Path) -> None:
        exec(lines, {"onnx": onnx, "path": folder / "model" / "model.onnx"})

    return replace(given, do=move, data=WEIGHTS.tobytes())


def _linked(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(WEIGHTS.tobytes())
    (folder / "model" / "weights.bin").symlink_to(folder / "weights.bin")


def _copied(given: Model, error: StepError) -> Model:
    assert "`cp -rL FROM TO`" in error.remedy

    def copy(folder: Path) -> None:
        _linked(folder)
        shutil.copytree(folder / "model", folder / "copy")  # follows links, as -L does

    return replace(given, do=copy, weights="copy/model.onnx")


def _custom() -> Any:
    node = helper.make_node("Twice", ["x"], ["y"], domain="com.acme")
    return model([node], [floats("x", ["N", 4])], [floats("y", ["N", 4])], domains={"com.acme": 1})


def _as_functions(given: Model, _: StepError) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(given.proto)
    add = helper.make_node("Add", ["a", "a"], ["b"])
    proto.functions.append(
        helper.make_function("com.acme", "Twice", ["a"], ["b"], [add], [helper.make_opsetid("", 17)])
    )
    return replace(given, proto=proto)


def _relu(opset: int) -> Any:
    return model(
        [helper.make_node("Relu", ["x"], ["y"])], [floats("x", ["N", 4])], [floats("y", ["N", 4])], opset=opset
    )


def _brain_floats() -> Any:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    outputs = [value("y", TensorProto.BFLOAT16, ["N", 4]), floats("z", ["N", 4])]
    return model([cast, helper.make_node("Neg", ["x"], ["z"])], [floats("x", ["N", 4])], outputs)


def _sum() -> Any:
    inputs = [floats("x", ["N", 4]), floats("offset", ["N", 4])]
    return model([helper.make_node("Add", ["x", "offset"], ["y"])], inputs, [floats("y", ["N", 4])])


def _of_brain_floats() -> Any:
    proto = linear()
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    return proto


def _taking_a_served_type(given: Model, error: StepError) -> Model:
    assert set(re.findall(r"\w+", error.remedy.rpartition(":")[2])) == set(SERVED)
    proto = onnx.ModelProto()
    proto.CopyFrom(given.proto)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return replace(given, proto=proto)


def _cast_at_the_end(given: Model, _: StepError) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(given.proto)
    proto.graph.node.append(helper.make_node("Cast", ["y"], ["y32"], to=TensorProto.FLOAT))
    del proto.graph.output[0]
    proto.graph.output.append(floats("y32", ["N", 4]))
    return replace(given, proto=proto, declared=signature({"x": ("float32", ["batch", 4])}, ["y32"]))


_X: dict[str, tuple[str, list[int | str]]] = {"x": ("float32", ["batch", 4])}
_OUTSIDE = linear(outside("w", WEIGHTS))
_BY_PATH = linear(outside("w", WEIGHTS, "../weights.bin"))

CASES: list[tuple[str, Model, str, Follow]] = [
    ("E301", Model(weights="model/modell.onnx"), "correct the path", _with(weights="model/model.onnx")),
    ("E301", Model(b"not a model\n"), "give an ONNX model", _again),
    ("E302", Model(_cut()), "copy or export it again", _again),
    ("E302", Model(linear(opset=99)), "export it for an older opset", _again),
    ("E302", Model(_too_new()), "set `model.ir_version = ", _of_version),
    ("E360", Model(_BY_PATH, do=_elsewhere), "put that file beside the model", _beside),
    ("E360", Model(_OUTSIDE, do=_linked), "copy the model with its files into a folder of its own", _copied),
    ("E361", Model(_OUTSIDE), "put it beside the model's file", _with(data=WEIGHTS.tobytes())),
    ("E361", Model(_OUTSIDE, data=WEIGHTS.tobytes()[:-1]), "with all its files again", _with(data=WEIGHTS.tobytes())),
    ("E362", Model(_of_brain_floats()), "cast it at its beginning", _taking_a_served_type),
    ("E362", Model(_brain_floats(), declared=signature(_X, ["y", "z"])), "end the model with a Cast to another type", _cast_at_the_end),
    ("E362", Model(_brain_floats(), declared=signature(_X, ["y", "z"])), "declare only the other outputs", _with(declared=signature(_X, ["z"]))),
    ("E363", Model(declared=signature({"x": ("float64", ["batch", 4])})), "leave `inputs` out", _with(declared=None)),
    ("E363", Model(_sum()), "add `offset` to `inputs:`", _with(declared=signature({**_X, "offset": _X["x"]}))),
    ("E363", Model(declared=signature(_X, ["yy"])), "did you mean `y`?", lambda m, e: replace(m, declared=signature(_X, [_said(r"`(\w+)`", e)]))),
    ("E363", Model(declared=signature(_X, ["x"]), names={"outputs": {"x": "y"}}), "rename one of them", lambda m, e: replace(m, declared=signature(_X, [_said(r"name: (\w+)", e)]), names={"outputs": {_said(r"name: (\w+)", e): _said(r"tensor: '(\w+)'", e)}})),
    ("E364", Model(_custom()), "written as functions of the model", _as_functions),
    ("E364", Model(_relu(1)), "preferably of a newer opset", _with(proto=_relu(17))),
    ("E365", Model(_without("node")), "export the whole model", _again),
]  # fmt: skip


@pytest.mark.parametrize(("code", "faulty", "told", "follow"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES])
def test_a_model_is_imported_once_it_is_changed_as_it_is_told(
    tmp_path: Path, code: str, faulty: Model, told: str, follow: Follow
) -> None:
    with pytest.raises(StepError) as caught:
        _read(faulty, tmp_path / "before")
    assert caught.value.code == code, caught.value.diagnostic
    assert told in caught.value.remedy, caught.value.diagnostic

    _read(follow(faulty, caught.value), tmp_path / "after")


def test_samples_are_corrected_or_the_range_is_widened(tmp_path: Path) -> None:
    path = saved(linear(stored("w", WEIGHTS)), tmp_path)

    def imported(name: str, samples: Any, highest: float) -> None:
        declared = signature(_X)
        declared["inputs"][0]["allowed"] = {"range": [0, highest], "values": None, "enforce": False}
        run_check(path, tmp_path / name, declared, samples={"x": samples})

    with pytest.raises(StepError) as caught:
        imported("before", np.full((2, 4), 3, np.float32), 1)
    assert caught.value.code == "E346"
    assert caught.value.remedy == "correct the samples, or `range` of `x` in `inputs:`"
    imported("corrected", np.full((2, 4), 1, np.float32), 1)
    imported("widened", np.full((2, 4), 3, np.float32), 3)
