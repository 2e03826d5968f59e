"""Weights: what cannot be read as tensors only, or does not fit the model, is refused with what to do."""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from orchestrator.frameworks.pytorch.archives import check_archive
from orchestrator.steps.context import StepError
from tests.frameworks.pytorch.case import ROWS, Imported, exported, model, run, saved, signature, traced

pytestmark = pytest.mark.frameworks

WEIGHTS = ("model", "source", "weights")
KEY = ("model", "source", "weights_key")
LINEAR = {"kind": "pytorch", "factory": "source_models:Linear", "kwargs": {}}


def _state() -> dict[str, torch.Tensor]:
    return dict(model("Linear").state_dict())


def _stored(path: Path, content: Any) -> Path:
    torch.save(content, path / "model.pt")
    return path / "model.pt"


def _bytes(path: Path, content: bytes) -> Path:
    (path / "weights.bin").write_bytes(content)
    return path / "weights.bin"


def _refused(code: str, path: Path, weights: Path, at: tuple[str, ...] = WEIGHTS, **source: Any) -> StepError:
    with pytest.raises(StepError) as caught:
        run(path, {**LINEAR, **source}, weights)
    assert (caught.value.code, caught.value.at) == (code, at), caught.value.message
    return caught.value


def _answers(imported: Imported) -> Any:
    return imported.arrays("baseline.npz")["y"]


def test_every_way_of_storing_the_same_weights_gives_the_same_outputs(tmp_path: Path) -> None:
    (tmp_path / "st").mkdir()
    expected = _answers(run(tmp_path / "st", LINEAR, saved("Linear", tmp_path / "st")))
    checkpoint = {"epoch": 3, "model": {"ema.weights": _state()}, "optimizer": {"lr": 0.1}}
    legacy = tmp_path / "legacy.pt"
    torch.save(_state(), legacy, _use_new_zipfile_serialization=False)
    ways: dict[str, tuple[dict[str, Any], Path]] = {
        "state dict": (LINEAR, _stored(tmp_path, _state())),
        "legacy": (LINEAR, legacy),
        "torchscript": ({"kind": "torchscript"}, tmp_path / "ts" / "model.pt"),
        "exported": ({"kind": "exported-program"}, tmp_path / "ep" / "model.pt2"),
        "checkpoint": ({**LINEAR, "weights_key": "model.ema.weights"}, tmp_path / "ck" / "model.pt"),
    }
    for name in ("ts", "ep", "ck"):
        (tmp_path / name).mkdir()
    traced(model("Linear").eval(), tmp_path / "ts", torch.ones(2, 4))
    exported(model("Linear").eval(), tmp_path / "ep", torch.ones(2, 4))
    _stored(tmp_path / "ck", checkpoint)
    for name, (source, weights) in ways.items():
        (tmp_path / name.replace(" ", "-")).mkdir()
        imported = run(tmp_path / name.replace(" ", "-"), source, weights)
        np.testing.assert_allclose(_answers(imported), expected, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("content", "looks_like"),
    [
        (b"", "an empty file"),
        (b"not weights at all\n", "a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "Keras"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 64, "LiteRT"),
        (b"\x08\x0a\x12\x07pytorch\x1a\x032.0\x3a\x02\x0a\x00", "an ONNX model"),
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.", "a Python pickle"),
        (bytes(range(256)), "unknown kind"),
        (b"PK\x03\x04 cut off", "a truncated or damaged zip archive"),
    ],
)
def test_a_file_of_another_kind_is_reported_with_what_it_looks_like(
    tmp_path: Path, content: bytes, looks_like: str
) -> None:
    error = _refused("E301", tmp_path, _bytes(tmp_path, content))
    assert looks_like in error.cause
    assert "kind: pytorch" in error.message
    assert "safetensors" in error.remedy or error.remedy.startswith("write `kind: ")


def test_a_missing_file_and_a_folder_are_reported(tmp_path: Path) -> None:
    assert "there is no `gone.safetensors`" in _refused("E301", tmp_path, tmp_path / "gone.safetensors").cause
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"")
    (tmp_path / "again").mkdir()
    assert "SavedModel" in _refused("E301", tmp_path / "again", folder).cause


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not written by PyTorch" in _refused("E301", tmp_path, tmp_path / "other.zip").cause


def test_the_kind_that_fits_the_file_is_named(tmp_path: Path) -> None:
    error = _refused("E301", tmp_path, traced(model("Linear").eval(), tmp_path, torch.ones(2, 4)))
    assert "a TorchScript archive" in error.cause
    assert error.remedy == "write `kind: torchscript`"
    (tmp_path / "b").mkdir()
    error = _refused("E301", tmp_path / "b", saved("Linear", tmp_path), kind="torchscript")
    assert "write `kind: pytorch` with a `factory:`" in error.remedy
    (tmp_path / "c").mkdir()
    error = _refused("E301", tmp_path / "c", exported(model("Linear").eval(), tmp_path, torch.ones(2, 4)))
    assert error.remedy == "write `kind: exported-program`"


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_cut_safetensors_are_damaged(tmp_path: Path, keep: float) -> None:
    content = save(_state())
    error = _refused("E302", tmp_path, _bytes(tmp_path, content[: int(len(content) * keep)]))
    assert error.message == "the safetensors file is damaged"
    assert "again" in error.remedy


def test_a_checkpoint_with_flipped_bytes_is_damaged(tmp_path: Path) -> None:
    content = bytearray(_stored(tmp_path, _state()).read_bytes())
    start = content.index(b"data.pkl") + 40
    content[start : start + 60] = b"\xff" * 60
    error = _refused("E302", tmp_path, _bytes(tmp_path, bytes(content)))
    assert error.message == "the checkpoint is damaged"


def test_a_pickled_whole_model_is_refused_with_how_to_save_it(tmp_path: Path) -> None:
    error = _refused("E303", tmp_path, _stored(tmp_path, torch.nn.Sequential(torch.nn.Linear(4, 3))))
    assert error.message == "the weights are a pickled whole model"
    assert "torch.nn.modules" in error.cause
    assert "save_file(model.state_dict()" in error.remedy


def test_a_checkpoint_with_python_objects_is_refused_by_their_names(tmp_path: Path) -> None:
    error = _refused("E303", tmp_path, _stored(tmp_path, {"weight": torch.ones(1), "args": argparse.Namespace(lr=1)}))
    assert error.message == "the weights hold more than tensors"
    assert "`argparse.Namespace`" in error.cause


class _Payload:
    """What a malicious file would hold: unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    _refused("E303", tmp_path, _stored(tmp_path, {"a": _Payload(tmp_path / "was run")}))
    assert not (tmp_path / "was run").exists()


def test_a_training_checkpoint_says_which_key_to_write(tmp_path: Path) -> None:
    content = {"state_dict": _state(), "epoch": 3, "ema": {"shadow": _state()}}
    error = _refused("E304", tmp_path, _stored(tmp_path, content))
    assert "`state_dict`, `epoch`, `ema`" in error.cause
    assert "write `weights_key: state_dict`" in error.remedy
    assert "ema.shadow" in error.remedy


def test_a_wrong_weights_key_lists_the_keys_that_exist(tmp_path: Path) -> None:
    weights = _stored(tmp_path, {"training": {"state_dict": _state(), "epoch": 3}})
    error = _refused("E304", tmp_path, weights, KEY, weights_key="training.state_dic")
    assert "`training` holds `state_dict`, `epoch`" in error.cause
    assert error.remedy == "did you mean `training.state_dict`?"
    (tmp_path / "b").mkdir()
    error = _refused("E304", tmp_path / "b", weights, KEY, weights_key="nothing")
    assert "`training.state_dict`" in error.remedy


def test_a_weights_key_that_safetensors_do_not_have_is_reported(tmp_path: Path) -> None:
    error = _refused("E304", tmp_path, saved("Linear", tmp_path), KEY, weights_key="state_dict")
    assert "`linear.weight`" in error.cause
    assert "leave the rest of the key out" in error.remedy


@pytest.mark.parametrize("content", [{"weight": torch.ones(1), "epoch": 3}, {}, [1, 2], torch.ones(2)])
def test_what_is_not_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    error = _refused("E308", tmp_path, _stored(tmp_path, content))
    assert error.message == "the weights are not a state dict of tensors"
    assert "torch.save(model.state_dict()" in error.remedy


def test_missing_and_unexpected_keys_are_listed(tmp_path: Path) -> None:
    state = _state()
    state["linear.scale"] = state.pop("linear.bias")
    error = _refused("E305", tmp_path, _stored(tmp_path, state))
    assert "1 missing: linear.bias" in error.cause
    assert "1 that the model does not have: linear.scale" in error.cause


def test_a_long_list_of_keys_is_truncated(tmp_path: Path) -> None:
    state = {**_state(), **{f"head.{number}": torch.ones(1) for number in range(20)}}
    error = _refused("E305", tmp_path, _stored(tmp_path, state))
    assert "20 that the model does not have" in error.cause
    assert "and 12 more" in error.cause
    assert "remove them" in error.remedy


def test_a_prefix_of_all_keys_is_reported_and_can_be_set(tmp_path: Path) -> None:
    state = {f"net.{name}": value for name, value in _state().items()}
    error = _refused("E305", tmp_path, _stored(tmp_path, state))
    assert "begin with `net.`" in error.remedy
    assert "Lightning" in error.remedy
    assert error.remedy.endswith("write `weights_key: net`")


@pytest.mark.parametrize("key", ["module", "_orig_mod", "net"])
def test_a_prefix_may_be_set(tmp_path: Path, key: str) -> None:
    state = {f"{key}.{name}": value for name, value in _state().items()}
    (tmp_path / "named").mkdir()
    run(tmp_path / "named", {**LINEAR, "weights_key": key}, _stored(tmp_path, state))
    (tmp_path / "safetensors").mkdir()
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "prefixed.safetensors")
    run(tmp_path / "safetensors", {**LINEAR, "weights_key": key}, tmp_path / "prefixed.safetensors")


def test_a_prefix_of_the_models_keys_is_recognized(tmp_path: Path) -> None:
    error = _refused("E305", tmp_path, _stored(tmp_path, _state()), factory="source_models:Nested")
    assert "the model's keys begin with `model.`" in error.remedy


def test_a_different_shape_is_reported_with_both_shapes(tmp_path: Path) -> None:
    error = _refused("E306", tmp_path, saved("Linear", tmp_path), kwargs={"width": 5})
    assert "linear.weight: [3, 4] stored, [3, 5] in the model" in error.cause
    assert "kwargs" in error.remedy


def test_weights_of_another_kind_of_type_are_refused(tmp_path: Path) -> None:
    state = {name: value.to(torch.int8) for name, value in _state().items()}
    error = _refused("E307", tmp_path, _stored(tmp_path, state))
    assert "linear.weight: int8 stored, float32 in the model" in error.cause


def test_half_precision_weights_are_accepted_with_a_note(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in _state().items()}
    imported = run(tmp_path, LINEAR, _stored(tmp_path, state))
    assert "weights: stored as float16, converted to float32, the type of the model" in imported.facts["notes"]


def test_tied_weights_may_be_stored_once(tmp_path: Path) -> None:
    state = dict(model("Tied").state_dict())
    del state["second.weight"]
    save_file(state, tmp_path / "tied.safetensors")
    imported = run(tmp_path, {**LINEAR, "factory": "source_models:Tied"}, tmp_path / "tied.safetensors")
    assert imported.facts["parameters"] == 4 * 4 + 4 + 4


def _with_entry(archive: Path, name: str, content: bytes) -> Path:
    changed = archive.with_name("changed.pt2")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry.endswith(name) else old.read(entry))
    return changed


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return exported(model("Linear").eval(), tmp_path, torch.ones(2, 4))


def test_pickled_objects_in_an_exported_program_are_not_loaded(tmp_path: Path, program: Path) -> None:
    buffer = io.BytesIO()
    torch.save(((_Payload(tmp_path / "was run"),), {}), buffer)
    weights = _with_entry(program, "data/sample_inputs/model.pt", buffer.getvalue())
    error = _refused("E303", tmp_path, weights, kind="exported-program")
    assert "pickled Python objects" in error.cause
    assert not (tmp_path / "was run").exists()


def test_a_program_is_not_called_unsafe_because_memory_ran_out(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(MemoryError):
        check_archive(program)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("torch.ops.aten.linear.default", "torch.serialization.os.system", "calls `torch.serialization.os.system`"),
        ('"guards_code": [', '"guards_code": ["__import__(\'os\')"', "the guard"),
        ("Symbol('s", "__import__('os", "the expression"),
    ],
)
def test_code_in_the_graph_of_an_exported_program_is_not_run(
    tmp_path: Path, program: Path, old: str, new: str, told: str
) -> None:
    with zipfile.ZipFile(program) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        text = archive.read(name).decode()
    assert old in text
    weights = _with_entry(program, "models/model.json", text.replace(old, new).encode())
    assert told in _refused("E303", tmp_path, weights, kind="exported-program").cause


@pytest.mark.parametrize("kind", ["torchscript", "exported-program"])
def test_a_cut_archive_is_refused(tmp_path: Path, kind: str, program: Path) -> None:
    whole = program if kind == "exported-program" else traced(model("Linear").eval(), tmp_path, torch.ones(2, 4))
    error = _refused("E301", tmp_path, _bytes(tmp_path, whole.read_bytes()[:-200]), kind=kind)
    assert "truncated or damaged" in error.cause


def test_torchscript_saved_in_training_mode_is_noted(tmp_path: Path) -> None:
    weights = traced(model("Linear").train(), tmp_path, torch.ones(2, 4))
    imported = run(tmp_path, {"kind": "torchscript"}, weights, signature(ROWS))
    assert any("saved in training mode" in note for note in imported.facts["notes"])
