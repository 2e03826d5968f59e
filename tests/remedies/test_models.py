"""A PyTorch model that is refused: once its code or its spec is changed as the message says, it is imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from orchestrator.steps.context import StepError
from tests.frameworks.pytorch.case import run, signature

pytestmark = pytest.mark.frameworks

NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.layer = nn.Linear(4, size)

    def forward(self, x):
        return self.layer(x)
"""
TWO_INPUTS = NET.replace("(self, x)", "(self, x, scale)").replace("self.layer(x)", "self.layer(x) * scale")
RETURN = "return self.layer(x)"
SCALE: dict[str, Any] = {"x": ("float32", ["batch", 4]), "scale": ("float32", ["batch", 1])}


def _returning(expression: str) -> str:
    return NET.replace(RETURN, f"return {expression}")


@dataclass(frozen=True)
class Model:
    """A user's file `net.py`, and what the spec says of it."""

    code: str = NET
    factory: str = "Net"
    kwargs: Mapping[str, Any] | None = None
    declared: Mapping[str, Any] | None = None
    weights_key: str | None = None
    state: Mapping[str, Any] | None = None


_TRAINED = {"layer.weight": torch.ones(3, 4), "layer.bias": torch.zeros(3)}


def _said(pattern: str, error: StepError) -> str:
    match = re.search(pattern, error.remedy)
    assert match, error.remedy
    return match[1]


def _imported(model: Model, path: Path, name: str) -> None:
    folder = path / name
    folder.mkdir()
    module = f"{name}_{path.name}".replace("-", "_")
    (folder / f"{module}.py").write_text(model.code, encoding="utf-8")
    if model.weights_key is not None or any(isinstance(value, dict) for value in (model.state or {}).values()):
        weights = folder / "weights.pt"
        torch.save(dict(model.state or _TRAINED), weights)
    else:
        weights = folder / "weights.safetensors"
        save_file(dict(model.state or _TRAINED), weights)
    source = {"kind": "pytorch", "factory": f"{module}:{model.factory}", "kwargs": dict(model.kwargs or {})}
    if model.weights_key is not None:
        source["weights_key"] = model.weights_key
    run(folder, source, weights, model.declared, project=folder)


Follow = Callable[[Model, StepError], Model]


def _code(old: str, new: str) -> Follow:
    return lambda model, _: replace(model, code=model.code.replace(old, new))


_DROPOUT = _returning("torch.nn.functional.dropout(self.layer(x))")
_NORM = _returning("nn.functional.batch_norm(self.layer(x), None, None, training=True)")
_COUNTS = NET.replace(RETURN, "self.seen = getattr(self, 'seen', 0) + 1\n        return self.layer(x) + self.seen")
_OUTPUTS = signature(outputs={"one": None, "two": None})


def _wide(low: int) -> dict[str, Any]:
    return signature({"x": ("float32", ["batch", "width"])}, dims={"batch": (1, 4), "width": (low, 8)})


CASES: list[tuple[str, Model, str, Follow]] = [
    ("E304", Model(state={"epoch": 3, "model": _TRAINED}), "write `weights_key:", lambda m, e: replace(m, weights_key=_said(r"weights_key: (\w+)", e))),
    ("E305", Model(state={"a.layer.weight": _TRAINED["layer.weight"], "a.layer.bias": _TRAINED["layer.bias"]}), "weights_key", lambda m, e: replace(m, weights_key=_said(r"weights_key: ([\w.]+)", e))),
    ("E306", Model(kwargs={"size": 5}), "set them in `kwargs:`", lambda m, _: replace(m, kwargs={"size": 3})),
    ("E307", Model(state={**_TRAINED, "layer.bias": torch.zeros(3, dtype=torch.int64)}), "in a floating-point type", lambda m, _: replace(m, state=_TRAINED)),
    ("E310", Model(code="import licence_of_acme\n" + NET), "install the package", _code("import licence_of_acme\n", "")),
    ("E311", Model(factory="Nett"), "did you mean `Net`?", lambda m, e: replace(m, factory=_said(r"did you mean `(\w+)`", e))),
    ("E312", Model(code=NET + "\nbuilt = Net()\n", factory="built"), "name a class or a function", lambda m, _: replace(m, factory="Net")),
    ("E313", Model(kwargs={"sise": 3}), "its signature is", lambda m, e: replace(m, kwargs={_said(r"\((\w+)=3\)", e): 3})),
    ("E314", Model(code=NET + "\ndef make():\n    return Net(undefined)\n", factory="make"), "correct the code", _code("Net(undefined)", "Net()")),
    ("E315", Model(code=NET + "\ndef make():\n    return {'net': Net()}\n", factory="make"), "return the model itself", _code("{'net': Net()}", "Net()")),
    ("E320", Model(code=TWO_INPUTS), "declare every input", lambda m, _: replace(m, declared=signature(SCALE))),
    ("E320", Model(declared=signature(SCALE)), "remove `scale`", lambda m, _: replace(m, declared=signature())),
    ("E321", Model(declared=signature({"x": ("float32", ["batch", 5])})), "correct the shape", lambda m, _: replace(m, declared=signature())),
    ("E322", Model(code=_returning("self.layer(x[:, :4])"), declared=_wide(1)), "declare a range of `width`", lambda m, _: replace(m, declared=_wide(4))),
    ("E323", Model(code=_returning("self.layer(x), x")), "name every output", lambda m, _: replace(m, declared=_OUTPUTS)),
    ("E324", Model(code=_returning("{'logits': self.layer(x)}")), "as in the dictionary: `logits`", lambda m, e: replace(m, declared=signature(outputs={_said(r"`(\w+)`", e): None}))),
    ("E325", Model(code=_returning("(self.layer(x), 'text')"), declared=_OUTPUTS), "let `forward` return a tensor", _code("'text'", "x")),
    ("E326", Model(declared=signature(outputs={"y": ["batch", 7]})), "without one to have it found", lambda m, e: replace(m, declared=signature(outputs={_said(r"declare `\{name: (\w+)\}`", e): None}))),
    ("E328", Model(code=_returning("self.layer(x) / 0 * 0")), "give real inputs in `samples:`", _code(" / 0 * 0", "")) ,
    ("E330", Model(code=_DROPOUT), "training=self.training", lambda m, e: replace(m, code=m.code.replace("dropout(self.layer(x))", f"dropout(self.layer(x), {_said(r'(training=self.training)', e)})"))),
    ("E331", Model(code=_NORM), "track_running_stats=True", _code("nn.functional.batch_norm(self.layer(x), None, None, training=True)", "self.layer(x)")),
    ("E331", Model(code=_returning("self.layer(x).cumsum(0)")), "declare `model: {batch: none}`", lambda m, _: replace(m, declared=signature({"x": ("float32", ["batch", 4])}, batch=None))),
    ("E332", Model(code=_COUNTS), "keep no state between calls", _code("self.seen = getattr(self, 'seen', 0) + 1", "self.seen = 1")),
]  # fmt: skip


@pytest.mark.parametrize(("code", "model", "told", "follow"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES])
def test_a_model_is_imported_once_it_is_changed_as_it_is_told(
    tmp_path: Path, code: str, model: Model, told: str, follow: Follow
) -> None:
    with pytest.raises(StepError) as caught:
        _imported(model, tmp_path, "before")
    assert caught.value.code == code, caught.value.diagnostic
    assert told in caught.value.remedy, caught.value.diagnostic

    _imported(follow(model, caught.value), tmp_path, "after")


def test_an_object_among_the_weights_is_saved_as_a_state_dict(tmp_path: Path) -> None:
    torch.save({"layer.weight": np.ones((3, 4))}, tmp_path / "weights.pt")
    (tmp_path / "net_of_objects.py").write_text(NET, encoding="utf-8")
    source = {"kind": "pytorch", "factory": "net_of_objects:Net"}
    with pytest.raises(StepError) as caught:
        run(tmp_path, source, tmp_path / "weights.pt", project=tmp_path)
    assert caught.value.code == "E303"
    assert "safetensors" in caught.value.remedy
    (tmp_path / "again").mkdir()
    save_file(_TRAINED, tmp_path / "again" / "weights.safetensors")
    run(tmp_path / "again", source, tmp_path / "again" / "weights.safetensors", project=tmp_path)


@pytest.mark.parametrize("number", [0, 1])
def test_a_whole_checkpoint_is_saved_again_as_tensors_by_either_line(tmp_path: Path, number: int) -> None:
    weights = tmp_path / "checkpoint.pt"
    torch.save({**_TRAINED, "epoch": 3}, weights)
    (tmp_path / "net_of_a_checkpoint.py").write_text(NET, encoding="utf-8")
    source = {"kind": "pytorch", "factory": "net_of_a_checkpoint:Net"}
    with pytest.raises(StepError) as caught:
        run(tmp_path, source, weights, project=tmp_path)
    assert caught.value.code == "E308"
    line = caught.value.remedy.partition(": ")[2].split(", or ")[number]
    (name,) = re.findall(r'"(model\.\w+)"', line)
    again = tmp_path / "again"
    again.mkdir()
    line = line.replace(name, str(again / name))
    exec(
        line,
        {"torch": torch, "safetensors": safetensors, "model": torch.nn.ModuleDict({"layer": torch.nn.Linear(4, 3)})},
    )
    run(again, source, again / name, project=tmp_path)
