"""State dicts load as `torch.load(weights_only=True)` and `load_state_dict` load them, wrapped parts included."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from orchestrator.frameworks.pytorch.weights import find_state_dict
from orchestrator.steps.context import StepError
from tests.frameworks.pytorch.case import model, run

pytestmark = pytest.mark.frameworks

X = np.random.default_rng(0).normal(size=(3, 4)).astype("f4")


def source(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "pytorch", "factory": f"source_models:{name}", "kwargs": {}, **more}


def expected(module: Any) -> Any:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(X)).numpy()


def answered(path: Path, name: str, weights: Path, **more: Any) -> tuple[Any, list[str]]:
    """The outputs of the import step on X, and its notes."""
    path.mkdir()
    imported = run(path, source(name, **more), weights, samples={"x": X})
    return imported.arrays("baseline.npz")["y"], imported.facts["notes"]


def refused(path: Path, name: str, weights: Path, **more: Any) -> StepError:
    path.mkdir()
    with pytest.raises(StepError) as caught:
        run(path, source(name, **more), weights)
    return caught.value


def shifted() -> Any:
    module = model("Shifted")
    module.settings = {"shift": 3.0, "names": ["a", "b"], "of": {"sizes": (1, 2)}}
    return module


@pytest.mark.parametrize("zipped", [True, False])
def test_extra_state_that_is_no_tensor_reaches_the_module(tmp_path: Path, *, zipped: bool) -> None:
    module = shifted()
    torch.save(module.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    found, _ = answered(tmp_path / "whole", "Shifted", tmp_path / "w.pt")
    np.testing.assert_allclose(found, expected(module), rtol=1e-5)
    assert find_state_dict(tmp_path / "w.pt")[1].keys() == {"linear.weight", "linear.bias"}

    torch.save({"epoch": 3, "model": module.state_dict()}, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    assert find_state_dict(tmp_path / "c.pt")[0] == "model"
    found, _ = answered(tmp_path / "inside", "Shifted", tmp_path / "c.pt", weights_key="model")
    np.testing.assert_allclose(found, expected(module), rtol=1e-5)


def test_objects_in_extra_state_are_refused(tmp_path: Path) -> None:
    module = shifted()
    held = (argparse.Namespace(shift=1), argparse.Namespace, argparse.FileType)  # an object, classes
    for number, (what, name) in enumerate(
        zip(held, ("argparse.Namespace", "argparse.Namespace", "argparse.FileType"), strict=True)
    ):
        for zipped in (True, False):
            module.settings["of"] = [what]
            torch.save(module.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
            error = refused(tmp_path / f"run-{number}-{zipped}", "Shifted", tmp_path / "w.pt")
            assert error.code == "E303"
            assert name in str(error.cause)


def test_extra_state_that_the_module_does_not_take_is_told_with_its_reason(tmp_path: Path) -> None:
    module = shifted()
    module.settings = {"other": 1}
    torch.save(module.state_dict(), tmp_path / "w.pt")
    error = refused(tmp_path / "run", "Shifted", tmp_path / "w.pt")
    assert error.code == "E306"
    assert "shift" in str(error.cause)


def test_a_file_without_the_extra_state_is_told_what_holds_it(tmp_path: Path) -> None:
    state = {name: value for name, value in shifted().state_dict().items() if isinstance(value, torch.Tensor)}
    save_file(state, tmp_path / "w.safetensors")
    error = refused(tmp_path / "run", "Shifted", tmp_path / "w.safetensors")
    assert error.code == "E305"
    assert "1 missing: _extra_state" in str(error.cause)
    assert "torch.save(model.state_dict()" in error.remedy


def renamed(state: Any, **parts: str) -> OrderedDict[str, Any]:
    """The state of a model with wrapped parts, with the versions of its modules: `first="_orig_mod"` wraps the part `first`."""

    def name(before: str) -> str:
        head, _, rest = before.partition(".")
        whole = parts.get("whole", "")
        inner = f"{head}.{parts[head]}" if head in parts and head else head
        return ".".join(part for part in (whole, inner, rest) if part)

    found = OrderedDict((name(key), value) for key, value in state.items())
    found._metadata = {name(key): value for key, value in state._metadata.items()}  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    ("parts", "tools"),
    [
        ({"first": "_orig_mod"}, ["torch.compile"]),
        ({"second": "module"}, ["torch.nn.DataParallel"]),
        ({"whole": "module"}, ["torch.nn.DataParallel"]),
        ({"whole": "_orig_mod"}, ["torch.compile"]),
        ({"whole": "module._orig_mod", "first": "_orig_mod"}, ["torch.compile", "torch.nn.DataParallel"]),
        ({"first": "_fsdp_wrapped_module"}, ["FullyShardedDataParallel"]),
    ],
)
@pytest.mark.parametrize("versions", [True, False])
def test_names_of_wrapped_parts_are_matched_with_the_models(
    tmp_path: Path, parts: dict[str, str], tools: list[str], *, versions: bool
) -> None:
    module = model("Parts")
    state = renamed(module.state_dict(), **parts)
    if not versions:  # as from a version that stored the other sign
        state = OrderedDict((key, -value if "first" in key else value) for key, value in state.items())
    torch.save(state, tmp_path / "w.pt")
    found, notes = answered(tmp_path / "run", "Parts", tmp_path / "w.pt")
    np.testing.assert_allclose(found, expected(module), rtol=1e-5)
    assert [tool for tool in tools if not any(tool in note for note in notes)] == []


def test_a_part_that_is_called_like_a_wrapper_stays(tmp_path: Path) -> None:
    module = model("Parts")
    torch.save(module.state_dict(), tmp_path / "w.pt")
    found, notes = answered(tmp_path / "run", "Parts", tmp_path / "w.pt")
    np.testing.assert_allclose(found, expected(module), rtol=1e-5)
    assert not [note for note in notes if "weights:" in note]


def test_weights_of_a_plain_model_fit_the_one_with_a_compiled_part(tmp_path: Path) -> None:
    module = model("Parts")
    state = renamed(module.state_dict())
    state["second.weight"], state["second.bias"] = state.pop("second.module.weight"), state.pop("second.module.bias")
    torch.save(state, tmp_path / "w.pt")
    found, notes = answered(tmp_path / "run", "Parts", tmp_path / "w.pt")
    np.testing.assert_allclose(found, expected(module), rtol=1e-5)
    assert any("2 stored names differ from the model's by `module`" in note for note in notes)


def test_two_stored_names_for_one_of_the_model_are_not_guessed_at(tmp_path: Path) -> None:
    state = dict(model("Linear").state_dict())
    torch.save({f"{part}.{name}": value for name, value in state.items() for part in ("module", "_orig_mod")}, tmp_path / "w.pt")  # fmt: skip
    error = refused(tmp_path / "run", "Linear", tmp_path / "w.pt")
    assert error.code == "E305"
    assert "module.linear.weight" in str(error.cause)


def test_versions_of_modules_are_kept_below_a_prefix(tmp_path: Path) -> None:
    module = model("Parts")
    state = renamed(module.state_dict(), whole="net")
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "w.pt")
    found, _ = answered(tmp_path / "run", "Parts", tmp_path / "w.pt", weights_key="state_dict.net")
    np.testing.assert_allclose(found, expected(module), rtol=1e-5)


class Payload:
    """What a malicious file would hold: unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_checkpoint_from_before_1_6_may_hold_numbers_of_numpy(tmp_path: Path) -> None:
    module = model("Linear")
    content = {
        "state_dict": module.state_dict(),
        "best": np.float64(0.25),
        "epochs": np.arange(3),
        "options": argparse.Namespace(rate=np.float32(1)),
        "hook": Payload(tmp_path / "was run"),
    }
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert find_state_dict(tmp_path / "w.pt")[0] == "state_dict"
    found, _ = answered(tmp_path / "run", "Linear", tmp_path / "w.pt", weights_key="state_dict")
    np.testing.assert_allclose(found, expected(module), rtol=1e-5)
    assert not (tmp_path / "was run").exists()


def test_numbers_of_numpy_among_the_tensors_are_refused_by_name(tmp_path: Path) -> None:
    content = {**model("Linear").state_dict(), "best": np.float64(0.25)}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    error = refused(tmp_path / "run", "Linear", tmp_path / "w.pt")
    assert error.code == "E303"
    assert "numpy" in str(error.cause)
