"""Exported programs run as `torch.export.load` runs them, whatever their inputs' structure and operators, and no others."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim

from orchestrator.artifacts.inspection import Inspection
from orchestrator.frameworks.pytorch import convert
from orchestrator.frameworks.pytorch.source import inspect
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepContext, StepError
from tests.frameworks.pytorch.case import run, signature

pytestmark = pytest.mark.frameworks

BATCH = Dim("batch", min=1, max=8)
TOKENS, WEIGHT = torch.arange(18).reshape(3, 6), torch.rand(3, 6, generator=torch.Generator().manual_seed(0))


class Weighted(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """Two tensors and two constants, which may be given in any way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.table = torch.nn.Embedding(50, 8)

    def forward(
        self, tokens: Any, weight: Any = None, mean: bool = True, unused: None = None
    ) -> dict[str, torch.Tensor]:
        if isinstance(tokens, dict):
            tokens, weight = tokens["tokens"], tokens["weight"]
        rows = self.table(tokens) * weight.unsqueeze(-1)
        return {"row": rows.mean(1) if mean else rows.sum(1)}


GIVEN: dict[str, tuple[tuple[Any, ...], dict[str, Any], list[str]]] = {
    "by position": ((TOKENS, WEIGHT), {}, ["tokens", "weight"]),
    "by keyword": ((), {"tokens": TOKENS, "weight": WEIGHT}, ["tokens", "weight"]),
    "both": ((TOKENS,), {"weight": WEIGHT}, ["tokens", "weight"]),
    "in another order": ((), {"weight": WEIGHT, "tokens": TOKENS}, ["weight", "tokens"]),
    "in a dictionary": (({"tokens": TOKENS, "weight": WEIGHT},), {}, ["tokens_tokens", "tokens_weight"]),
    "with constants": ((TOKENS, WEIGHT, False), {"unused": None}, ["tokens", "weight"]),
}
"""How it is said → the positional and keyword arguments of the example, and the names in the graph."""


def exported(path: Path, args: tuple[Any, ...], keywords: dict[str, Any]) -> Path:
    def open_rows(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: open_rows(each) for key, each in value.items()}
        return {0: BATCH} if isinstance(value, torch.Tensor) else None

    named = dict(zip(("tokens", "weight", "mean"), args, strict=False)) | keywords
    shapes = {key: open_rows(each) for key, each in named.items()}
    torch.export.save(torch.export.export(Weighted().eval(), args, keywords, dynamic_shapes=shapes), path)
    return path


def declared(names: list[str]) -> dict[str, Any]:
    types: Mapping[str, tuple[str, list[int | str]]] = {
        name: ("int64" if name.endswith("tokens") else "float32", ["batch", 6]) for name in names
    }
    return signature(types, {"row": None}, {"batch": (1, 8)})


def inputs(names: list[str], rows: int) -> dict[str, np.ndarray[Any, Any]]:
    chance = np.random.default_rng(rows)
    every: dict[str, np.ndarray[Any, Any]] = {
        "tokens": chance.integers(0, 50, (rows, 6)),
        "weight": chance.random((rows, 6), np.float32),
    }
    return {name: every[name.rpartition("_")[2]] for name in names}


@pytest.mark.parametrize("how", GIVEN)
def test_a_program_is_called_as_it_was_exported(tmp_path: Path, how: str) -> None:
    args, keywords, names = GIVEN[how]
    given = inputs(names, 5)
    imported = run(
        tmp_path, {"kind": "exported-program"}, exported(tmp_path / "m.pt2", args, keywords), declared(names), given
    )
    ordered = [torch.from_numpy(given[name]) for name in sorted(names, key=lambda name: "weight" in name)]
    with torch.no_grad():
        expected = Weighted().eval()(*ordered, mean=how != "with constants")["row"]
    np.testing.assert_allclose(imported.arrays("baseline.npz")["row"], expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("format_name", ["exported-program", "torchscript", "onnx"])
@pytest.mark.parametrize("how", ["in another order", "in a dictionary", "with constants"])
def test_what_it_becomes_takes_its_tensors_by_name(tmp_path: Path, how: str, format_name: str) -> None:
    args, keywords, names = GIVEN[how]
    weights = exported(tmp_path / "m.pt2", args, keywords)
    imported = run(tmp_path, {"kind": "exported-program"}, weights, declared(names))
    for name in ("converted", "converting"):
        (tmp_path / name).mkdir()
    context = StepContext(
        {"source": {"kind": "exported-program"}},
        {"weights": weights, "import": imported.folder},
        tmp_path / "converted",
        tmp_path / "converting",
        tmp_path,
    )
    steps = {
        "exported-program": convert.to_exported_program,
        "torchscript": convert.to_torchscript,
        "onnx": convert.to_onnx,
    }
    steps[format_name](context)
    interface = Signature(
        tuple(Tensor(name, "int64" if name.endswith("tokens") else "float32", ("batch", 6)) for name in names),
        (Tensor("row", "float32", ("batch", 8)),),
        {"batch": (1, 8)},
        "batch",
    )
    given = inputs(names, 3)
    answered = open_runtime(format_name, context.output, interface, 1).run(given)
    ordered = [torch.from_numpy(given[name]) for name in sorted(names, key=lambda name: "weight" in name)]
    with torch.no_grad():
        expected = Weighted().eval()(*ordered, mean=how != "with constants")["row"]
    np.testing.assert_allclose(answered["row"], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_too_few_declared_inputs_are_named_as_in_the_program(tmp_path: Path) -> None:
    args, keywords, names = GIVEN["in a dictionary"]
    weights = exported(tmp_path / "m.pt2", args, keywords)
    with pytest.raises(StepError) as caught:
        run(tmp_path, {"kind": "exported-program"}, weights, declared(names[:1]))
    assert caught.value.code == "E320"
    assert "nothing is declared for `tokens_weight`" in str(caught.value.cause)


class Underscored(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """What exports as `aten._assert_tensor_metadata`, `aten.__and__` and, decomposed, `aten._softmax`; calls graphs of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = (x > 0) & (x < 200)
        y = torch.softmax(self.layer(x.float() * inside), 1)
        return torch.cond(self.layer.bias.sum() > 100, lambda each: each + 1, lambda each: each * 2, (y,))


@pytest.mark.filterwarnings(
    r"ignore:The \.grad attribute of a Tensor"
)  # torch.export's own, for the branches of torch.cond
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated")  # and the copying of these
@pytest.mark.parametrize("decomposed", [False, True])
def test_operators_whose_names_begin_with_underscores_are_no_code(tmp_path: Path, *, decomposed: bool) -> None:
    torch.manual_seed(0)
    module, rows = Underscored().eval(), torch.arange(12, dtype=torch.uint8).reshape(3, 4)
    program = torch.export.export(module, (rows,), dynamic_shapes=({0: BATCH},))
    program = program.run_decompositions() if decomposed else program
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called & ({"aten._softmax.default"} if decomposed else {"aten._assert_tensor_metadata.default"})
    torch.export.save(program, tmp_path / "m.pt2")
    shown = signature({"x": ("uint8", ["batch", 4])}, {"y": None}, {"batch": (1, 8)})
    imported = run(tmp_path, {"kind": "exported-program"}, tmp_path / "m.pt2", shown, {"x": rows.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(imported.arrays("baseline.npz")["y"], module(rows).numpy(), rtol=1e-5)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Softmax(1)).eval()
    torch.export.save(torch.export.export(module, (torch.ones(2, 4),)), tmp_path / "m.pt2")
    return tmp_path / "m.pt2"


def changed(program: Path, old: str, new: str) -> Path:
    """A copy of the archive with another text in its graph."""
    copy = program.with_name("changed.pt2")
    with zipfile.ZipFile(program) as before, zipfile.ZipFile(copy, "w") as after:
        for entry in before.namelist():
            content = before.read(entry)
            if entry.endswith("models/model.json"):
                assert old in content.decode()
                content = content.decode().replace(old, new).encode()
            after.writestr(entry, content)
    return copy


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.save.default",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten._sparse_coo_tensor_unsafe.default",
        "torch.ops.aten._sparse_csr_tensor_unsafe.default",
        "torch.ops.mkldnn.data_ptr.default",
        "torch.ops.aten.no_such_operator.default",
        "torch.ops.aten._softmax",
        "torch.ops.aten._softmax.__class__",
        "torch.ops._dir.__class__.__base__",
        "torch.ops.load_library",
        "torch.ops.mylib._run.default",
        "torch.ops.inductor.resize_storage_bytes_.default",
        "torch.ops.higher_order.executorch_call_delegate",
        "torch.ops.higher_order.call_torchbind",
        "_operator.call",
        "_operator.methodcaller",
        "_operator.attrgetter",
    ],
)
def test_what_is_no_operator_on_tensors_stays_refused(tmp_path: Path, program: Path, target: str) -> None:
    weights = changed(program, "torch.ops.aten.softmax.int", target)
    with pytest.raises(StepError) as caught:
        run(tmp_path, {"kind": "exported-program"}, weights)
    assert caught.value.code == "E303"
    assert f"calls `{target}`" in str(caught.value.cause)


def test_an_operator_among_an_operators_arguments_is_checked_too(tmp_path: Path, program: Path) -> None:
    argument = '{"name": "f", "arg": {"as_operator": "torch.serialization.os.system"}, "kind": 1}'
    weights = changed(program, '"target": "torch.ops.aten.softmax.int", "inputs": [', f'"target": "torch.ops.aten.softmax.int", "inputs": [{argument}, ')  # fmt: skip
    with pytest.raises(StepError) as caught:
        run(tmp_path, {"kind": "exported-program"}, weights)
    assert "calls `torch.serialization.os.system`" in str(caught.value.cause)


@pytest.mark.parametrize(
    "context",
    [
        {"default_factory_module": "payload", "default_factory_name": "run", "dict_context": []},
        json.dumps([{"__enum__": True, "fqn": "payload:Kind", "name": "A"}]),
    ],
)
def test_nothing_is_imported_for_the_structure_of_inputs(
    tmp_path: Path, program: Path, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "payload.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    spec = [1, {"type": "collections.defaultdict", "context": context, "children_spec": []}]
    with zipfile.ZipFile(program) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        own = json.loads(archive.read(name))["graph_module"]["module_call_graph"][0]["signature"]["in_spec"]
    weights = changed(program, json.dumps(own), json.dumps(json.dumps(spec)))
    with pytest.raises(StepError) as caught:
        run(tmp_path, {"kind": "exported-program"}, weights)
    assert caught.value.code == "E303"
    assert "names Python classes" in str(caught.value.cause)
    assert not (tmp_path / "was run").exists()


OBJECTS = """
import sys
from dataclasses import dataclass
import torch

class Row(dict):
    pass

torch.utils._pytree.register_pytree_node(
    Row,
    lambda row: (list(row.values()), list(row)),
    lambda values, names: Row(zip(names, values)),
    serialized_type_name="library.outputs.Row",
)

@dataclass
class Result:
    row: torch.Tensor
    hidden: Row
    nothing: torch.Tensor | None = None

torch.export.register_dataclass(Result, serialized_type_name="library.outputs.Result")

class Model(torch.nn.Module):
    def forward(self, x, y):
        return Result(x * 2, Row(sum=x + y)) if sys.argv[2] == "nested" else Row(double=x * 2, sum=x + y)

rows = {0: torch.export.Dim("batch", min=1, max=8)}
keywords = {"y": torch.ones(2, 3), "x": torch.ones(2, 3)}
program = torch.export.export(Model(), (), keywords, dynamic_shapes={"y": rows, "x": rows})
torch.export.save(program, sys.argv[1])
"""
"""A program of its own, so that its classes are in no other process."""


@pytest.mark.parametrize(("what", "outputs"), [("flat", ["double", "sum"]), ("nested", ["output_0", "output_1"])])
def test_objects_that_a_program_returns_are_dictionaries_without_their_class(
    tmp_path: Path, what: str, outputs: list[str]
) -> None:
    weights = tmp_path / "m.pt2"
    subprocess.run([sys.executable, "-W", "ignore", "-c", OBJECTS, str(weights), what], check=True)
    (tmp_path / "found").mkdir()
    context = StepContext(
        {"source": {"kind": "exported-program"}}, {"weights": weights}, tmp_path / "found", tmp_path, tmp_path
    )
    inspect(context)
    assert [each.tensor for each in Inspection.read(tmp_path / "found").outputs] == outputs

    shown = signature({name: ("float32", ["batch", 3]) for name in "yx"}, dict.fromkeys(outputs), {"batch": (1, 8)})
    given = {"x": np.full((2, 3), 5.0, np.float32), "y": np.full((2, 3), 2.0, np.float32)}
    imported = run(tmp_path, {"kind": "exported-program"}, weights, shown, given)
    for name, value in zip(outputs, (10.0, 7.0), strict=True):
        np.testing.assert_array_equal(imported.arrays("baseline.npz")[name], np.full((2, 3), value))

    for name in ("converted", "converting"):
        (tmp_path / name).mkdir()
    inputs_of = {"weights": weights, "import": imported.folder}
    context = StepContext({"source": {"kind": "exported-program"}}, inputs_of, tmp_path / "converted", tmp_path / "converting", tmp_path)  # fmt: skip
    convert.to_exported_program(context)
    assert b"library.outputs" not in (tmp_path / "converted" / "model.pt2").read_bytes()


def test_objects_without_names_of_their_fields_are_refused_by_their_class(tmp_path: Path, program: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        own = json.loads(archive.read(name))["graph_module"]["module_call_graph"][0]["signature"]["out_spec"]
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    spec = [1, {"type": "library.Cache", "context": json.dumps({"layers": 2}), "children_spec": [leaf]}]
    with pytest.raises(StepError) as caught:
        run(tmp_path, {"kind": "exported-program"}, changed(program, json.dumps(own), json.dumps(json.dumps(spec))))
    assert caught.value.code == "E303"
    assert "`library.Cache`" in str(caught.value.cause)
