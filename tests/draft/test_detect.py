"""The kind of a model is detected from names and first bytes; a path that is not a model is refused with its kind."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from orchestrator.draft.detect import find_model
from orchestrator.errors import UsageError
from orchestrator.spec.source_models import SourceKind

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n"
SAFETENSORS = (2).to_bytes(8, "little") + b"{}"
TFLITE = b"\x1c\x00\x00\x00TFL3" + bytes(32)


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def archive(path: Path, *names: str) -> bytes:
    with zipfile.ZipFile(path, "w") as written:
        for name in names:
            written.writestr(name, "{}")
    return path.read_bytes()


TRANSFORMERS = {"config.json": b'{"model_type": "bert"}', "model.safetensors": SAFETENSORS}


@pytest.mark.parametrize(
    ("files", "asked", "kind", "weights"),
    [
        ({"m.safetensors": SAFETENSORS}, "m.safetensors", "pytorch", "m.safetensors"),
        ({"m.tflite": TFLITE}, "m.tflite", "tflite", "m.tflite"),
        ({"m.bin": TFLITE}, "m.bin", "tflite", "m.bin"),
        ({"m.h5": b"\x89HDF\r\n\x1a\n"}, "m.h5", "keras", "m.h5"),
        ({"s/saved_model.pb": b"\x08\x01\x12\x02"}, "s", "saved-model", "s"),
        ({"s/saved_model.pb": b"\x08\x01\x12\x02"}, "s/saved_model.pb", "saved-model", "s"),
        ({"s/1/saved_model.pb": b"\x08\x01\x12\x02"}, "s", "saved-model", "s/1"),
        ({f"t/{name}": content for name, content in TRANSFORMERS.items()}, "t", "transformers", "t"),
        ({f"t/{name}": content for name, content in TRANSFORMERS.items()}, "t/config.json", "transformers", "t"),
        ({f"t/{name}": content for name, content in TRANSFORMERS.items()}, "t/model.safetensors", "transformers", "t"),
        ({"t/config.json": TRANSFORMERS["config.json"], "t/pytorch_model.bin": b"\x80"}, "t", "transformers", "t"),
        (
            {"t/config.json": TRANSFORMERS["config.json"], "t/pytorch_model-00001-of-00002.bin": b"\x80"},
            "t/pytorch_model-00001-of-00002.bin",
            "transformers",
            "t",
        ),
        ({"f/README.md": b"# read me", "f/m.tflite": TFLITE}, "f", "tflite", "f/m.tflite"),
        ({"f/config.json": b"[1]", "f/m.safetensors": SAFETENSORS}, "f", "pytorch", "f/m.safetensors"),
    ],
)
def test_a_model_is_found(tmp_path: Path, files: dict[str, bytes], asked: str, kind: str, weights: str) -> None:
    lay(tmp_path, files)
    found = find_model(tmp_path / asked)
    assert (found.kind, found.path) == (kind, tmp_path / weights)
    assert bool(found.remark) == (asked != weights)


def test_the_kind_can_be_given(tmp_path: Path) -> None:
    lay(tmp_path, {**TRANSFORMERS, "odd.bin": b"\x00\x01"})
    alone = find_model(tmp_path / "model.safetensors", "pytorch")
    assert (alone.kind, alone.path) == ("pytorch", tmp_path / "model.safetensors")
    assert find_model(tmp_path / "odd.bin", "onnx").kind == "onnx"
    assert find_model(tmp_path / "config.json", "transformers").path == tmp_path
    assert find_model(tmp_path, "pytorch").path == tmp_path / "model.safetensors"


def refused(path: Path, kind: SourceKind | None = None) -> tuple[str, str, str, str]:
    with pytest.raises(UsageError) as caught:
        find_model(path, kind)
    (told,) = caught.value.diagnostics
    assert told.remedy
    return told.code, told.message, told.cause, told.remedy


def test_a_wrong_path_suggests_a_similar_file(tmp_path: Path) -> None:
    lay(tmp_path, {"digits.keras": b"x"})
    code, _, _, remedy = refused(tmp_path / "digit.keras")
    assert code == "E140"
    assert remedy == f"did you mean {tmp_path / 'digits.keras'}?"


@pytest.mark.parametrize(
    ("content", "code", "cause"),
    [
        (b"", "E143", "an empty file"),
        (b"PK\x03\x04 and then nothing", "E143", "truncated or damaged"),
        (POINTER, "E142", "a small text file in place of the real one"),
        (b"plain text", "E141", "a text file"),
        (b"<!doctype html><html>", "E141", "an HTML page"),
        (b"GGUF\x03\x00\x00\x00", "E141", "a GGUF file"),
    ],
)
def test_a_path_that_is_not_a_model_is_refused_with_its_kind(
    tmp_path: Path, content: bytes, code: str, cause: str
) -> None:
    lay(tmp_path, {"model": content})
    told = refused(tmp_path / "model")
    assert told[0] == code
    assert cause in told[2]


def test_a_pointer_inside_a_folder_is_reported(tmp_path: Path) -> None:
    lay(tmp_path, {"config.json": TRANSFORMERS["config.json"], "model.safetensors": POINTER})
    code, message, _, remedy = refused(tmp_path)
    assert code == "E142"
    assert "model.safetensors" in message
    assert "git lfs pull" in remedy


def test_several_models_are_listed(tmp_path: Path) -> None:
    lay(tmp_path, {"a.tflite": TFLITE, "b.safetensors": SAFETENSORS, "c/saved_model.pb": b"\x08\x01"})
    code, _, cause, remedy = refused(tmp_path)
    assert code == "E144"
    assert cause == "a.tflite (tflite), b.safetensors (pytorch), c (saved-model)"
    assert remedy == f"give one of them: mlo init {tmp_path / 'a.tflite'}"
    assert find_model(tmp_path, "pytorch").path == tmp_path / "b.safetensors"


def test_a_folder_without_a_model_is_refused_with_its_content(tmp_path: Path) -> None:
    assert refused(tmp_path)[2] == "it is empty"
    lay(tmp_path, {"notes.txt": b"text"})
    assert refused(tmp_path)[:1] == ("E141",)
    assert refused(tmp_path)[2] == "it contains notes.txt"


def test_a_transformers_folder_of_another_framework_says_how_to_save_it_again(tmp_path: Path) -> None:
    lay(tmp_path, {"config.json": json.dumps({"model_type": "bert"}).encode(), "flax_model.msgpack": b"\x00"})
    code, message, _, remedy = refused(tmp_path)
    assert code == "E141"
    assert "without weights of PyTorch" in message
    assert "save_pretrained" in remedy


def test_a_pipe_is_refused_without_hanging(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe")[0] == "E141"


def test_archives_are_distinguished(tmp_path: Path) -> None:
    archive(tmp_path / "m.keras", "config.json", "metadata.json", "model.weights.h5")
    archive(tmp_path / "m.pt", "m/data.pkl", "m/constants.pkl")
    archive(tmp_path / "m.pt2", "m/archive_format", "m/models/model.json")
    archive(tmp_path / "m.ckpt", "m/data.pkl", "m/version")
    kinds = {path.name: find_model(path).kind for path in tmp_path.iterdir()}
    assert kinds == {"m.keras": "keras", "m.pt": "torchscript", "m.pt2": "exported-program", "m.ckpt": "pytorch"}
