"""Refusals that need no command: of files, folders, ports and what was read from a model. Doing what they say helps."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import subprocess
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli.render import render
from orchestrator.diagnostics import Diagnostic
from orchestrator.draft.detect import find_model
from orchestrator.errors import MloError
from orchestrator.measure.runtime_benchmark import batch_sizes as measured_batch_sizes
from orchestrator.plan.found import planned_model
from orchestrator.plan.steps.benchmark import batch_sizes
from orchestrator.spec.load import load_spec
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepError
from orchestrator.store.digest import digest_tree
from orchestrator.targets.folder.target import FolderTarget
from orchestrator.targets.inputs import read_requests
from orchestrator.targets.local.target import LocalTarget
from tests.artifacts.made import inspection
from tests.certificates import certificate
from tests.spec.conftest import BASE

ONNX = "apiVersion: mlo/v1\nkind: ModelDeployment\nmetadata: {name: read}\nmodel:\n  source: {kind: onnx, weights: model.onnx}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.safetensors").write_bytes(b"weights")
    return tmp_path


def _refusal(call: Any, *arguments: Any, **named: Any) -> Diagnostic:
    with pytest.raises(MloError) as caught:
        call(*arguments, **named)
    found: Diagnostic = caught.value.diagnostics[0]
    return found


def _load(content: bytes | str) -> Any:
    Path("spec.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_spec("spec.yaml")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_is_saved_as_utf_8(encoding: str) -> None:
    text = f"# préparé\n{BASE}"
    found = _refusal(_load, text.encode(encoding))
    assert found.code == "E110"
    assert re.fullmatch(r"save (it|the file) as UTF-8", found.remedy)
    assert _load(text).spec.metadata.name == "digits"


@pytest.mark.usefixtures("folder")
def test_an_empty_file_is_begun_with_the_lines_that_are_named() -> None:
    found = _refusal(_load, "")
    assert found.code == "E112"
    lines = re.findall(r"`([^`]+)`", found.remedy)
    assert _refusal(_load, "\n".join(lines) + "\n").code != "E112"


@pytest.mark.usefixtures("folder")
def test_a_nesting_that_is_too_deep_has_a_wrong_bracket() -> None:
    found = _refusal(_load, BASE + f"labels: {'[' * 80}{']' * 80}\n")
    assert found.code == "E111"
    assert "check the brackets" in found.remedy
    assert _refusal(_load, BASE + "labels: []\n").code != "E111"


_OUTPUTS = [{"tensor": "y", "dtype": "float32", "shape": [None, 3]}]


def _join(model: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]] = _OUTPUTS, more: str = "") -> Any:
    Path("model.onnx").write_bytes(b"")
    Path("spec.yaml").write_text(ONNX + model + more, encoding="utf-8")
    return planned_model(load_spec("spec.yaml"), inspection({"inputs": inputs, "outputs": outputs}))


_OPEN = [{"tensor": "ids", "dtype": "int64", "shape": [None, None]}]


@pytest.mark.usefixtures("folder")
def test_an_open_dimension_gets_the_range_that_is_named() -> None:
    found = _refusal(_join, "", _OPEN)
    assert found.code == "E127"
    (added,) = re.findall(r"add `(.+?)` to `model\.dims`", found.remedy)
    assert _join(f"  dims: {{{added}}}\n", _OPEN).signature.batch == "batch"


@pytest.mark.usefixtures("folder")
def test_inputs_that_differ_from_the_model_are_left_out() -> None:
    fixed = [{"tensor": "x", "dtype": "float32", "shape": [None, 8]}]
    found = _refusal(
        _join, "  inputs: [{name: x, dtype: int64, shape: [batch, 8]}]\n  dims: {batch: {max: 4}}\n", fixed
    )
    assert found.code == "E129"
    assert "leave out `inputs`" in found.remedy
    assert _join("", fixed).signature.inputs[0].dtype == "float32"


@pytest.mark.usefixtures("folder")
def test_a_renamed_input_gets_the_tensor_that_is_named() -> None:
    fixed = [{"tensor": "x:0", "dtype": "float32", "shape": [None, 8]}]
    wrong = "{name: image, dtype: float32, shape: [batch, 8]}"
    found = _refusal(_join, f"  inputs: [{wrong}]\n  dims: {{batch: {{max: 4}}}}\n", fixed)
    assert found.code == "E129"
    (named,) = re.findall(r"write `(\{.+?\})`", found.remedy)
    mended = named.replace("...", "dtype: float32, shape: [batch, 8]")
    assert _join(f"  inputs: [{mended}]\n  dims: {{batch: {{max: 4}}}}\n", fixed).names["inputs"] == {"image": "x:0"}


def test_a_spec_in_the_models_folder_is_moved_out(folder: Path) -> None:
    model = folder / "model"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"")
    text = ONNX.replace("kind: onnx, weights: model.onnx", "kind: saved-model, weights: .")
    (model / "spec.yaml").write_text(text, encoding="utf-8")
    found = _refusal(load_spec, model / "spec.yaml")
    assert (found.code, found.remedy) == ("E136", "move the spec out of the folder, and set `weights` to the folder")
    (model / "spec.yaml").unlink()
    assert _load(text.replace("weights: .", "weights: model")).warnings == ()


def test_a_misspelled_model_is_found_by_the_name_that_is_meant(folder: Path) -> None:
    (folder / "digits.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    found = _refusal(find_model, Path("digit.safetensors"))
    assert found.code == "E140"
    (meant,) = re.findall(r"did you mean (.+)\?", found.remedy)
    assert find_model(Path(meant)).path == Path("digits.safetensors")


def test_one_of_several_models_is_named(folder: Path) -> None:
    (folder / "models").mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        (folder / "models" / name).write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    found = _refusal(find_model, Path("models"))
    assert found.code == "E144"
    (named,) = re.findall(r"mlo init (\S+)", found.remedy)
    assert find_model(Path(named)).path == Path("models/a.safetensors")


def test_a_damaged_model_is_copied_again(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    found = _refusal(find_model, Path("model.safetensors"))
    assert (found.code, found.remedy) == ("E143", "copy, download or save it again")
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert find_model(Path("model.safetensors")).kind == "pytorch"


def test_a_pointer_of_git_lfs_is_replaced_by_the_file(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 10\n"
    (folder / "model.safetensors").write_text(pointer)
    found = _refusal(find_model, Path("model.safetensors"))
    assert found.code == "E142"
    assert "`git lfs pull`" in found.remedy
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")  # what it leaves
    assert find_model(Path("model.safetensors")).kind == "pytorch"


def _rendered_into(output: Path, *, force: bool = False) -> Diagnostic:
    """What `mlo render` says of its output folder; a spec that is missing ends it before it computes anything."""
    return _refusal(
        render.callback, Path("missing.yaml"), output, force=force, without_model=False, platform=None, environment=None
    )


@pytest.mark.parametrize("code", ["E216", "E218"])
def test_a_folder_that_holds_something_else_is_not_rendered_into(folder: Path, code: str) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").touch()
    found = _rendered_into(Path("full"), force=code == "E218")
    assert found.code == code
    assert "choose " in found.remedy
    assert _rendered_into(Path("new")).code == "E100"


def test_an_earlier_render_is_replaced_with_force(folder: Path) -> None:
    (folder / "full").mkdir()
    (folder / "full" / ".mlo-rendered").touch()
    found = _rendered_into(Path("full"))
    assert found.code == "E216"
    assert "add --force" in found.remedy
    assert _rendered_into(Path("full"), force=True).code == "E100"


def test_inputs_of_a_request_are_given_as_the_message_spells_them(folder: Path) -> None:
    signature = Signature(
        (Tensor("image", "float32", ("batch", 2)),), (Tensor("y", "float32", ("batch",)),), {"batch": (1, 4)}, "batch"
    )
    np.savez(folder / "x.npz", picture=np.zeros((1, 2), np.float32))
    found = _refusal(read_requests, folder / "x.npz", signature)
    assert found.code == "E614"
    (name, dtype) = re.findall(r"give (\w+): (\w+) \[batch, 2\]", found.remedy)[0]
    as_told: dict[str, Any] = {name: np.zeros((1, 2), dtype)}
    np.savez(folder / "x.npz", **as_told)
    read_requests(folder / "x.npz", signature)


def test_a_link_in_a_model_is_replaced_by_the_file(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "vocabulary").symlink_to(folder / "digits.safetensors")
    found = _refusal(digest_tree, folder / "model")
    assert (found.code, found.remedy) == ("E706", "put the file itself in its place")
    (folder / "model" / "vocabulary").unlink()
    shutil.copy("digits.safetensors", folder / "model" / "vocabulary")
    assert list(digest_tree(folder / "model").files) == ["vocabulary"]


def test_a_folder_that_is_in_use_is_exchanged_or_emptied(folder: Path) -> None:
    (folder / "shelf").mkdir()
    (folder / "shelf" / "notes.txt").touch()
    found = _refusal(FolderTarget(folder / "shelf", "digits", keep=2).prepare)
    assert found.code == "E620"
    assert "another folder" in found.remedy
    FolderTarget(folder / "another", "digits", keep=2).prepare()
    assert "make this one empty" in found.remedy
    (folder / "shelf" / "notes.txt").unlink()
    FolderTarget(folder / "shelf", "digits", keep=2).prepare()


def test_another_port_is_set_where_one_is_taken(folder: Path) -> None:
    place = folder / "store" / "deployments" / "digits"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = _refusal(LocalTarget(place, port).check)
        assert found.code == "E618"
        assert f"'sport = :{port}'" in found.remedy
        assert "set another `deploy: port:`" in found.remedy
        with socket.create_server(("127.0.0.1", 0)) as free:
            other = free.getsockname()[1]
        LocalTarget(place, other).check()
    LocalTarget(place, port).check()  # or what listened there is stopped


def test_a_type_that_is_not_served_is_changed_or_left_out(folder: Path) -> None:
    complex_input = [{"tensor": "x", "dtype": "complex64", "shape": [None, 2]}]
    found = _refusal(_join, "", complex_input)
    assert found.code == "E128"
    served = re.findall(r"let the model take one of ([\w, ]+)$", found.remedy)[0].split(", ")
    sized = "  dims: {batch: {max: 4}}\n"
    for dtype in served:
        assert _join(sized, [{**complex_input[0], "dtype": dtype}]).signature.inputs[0].dtype == dtype

    both = [{"tensor": "y", "dtype": "float32", "shape": [None, 3]}, {**complex_input[0], "tensor": "z"}]
    fixed = [{"tensor": "x", "dtype": "float32", "shape": [None, 8]}]
    found = _refusal(_join, sized, fixed, both)
    assert "or declare only the other `outputs`" in found.remedy
    assert _join(f"{sized}  outputs: [{{name: y}}]\n", fixed, both).signature.outputs[0].name == "y"


def test_what_is_no_model_is_given_by_its_kind_or_another_is(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello", encoding="utf-8")
    found = _refusal(find_model, Path("notes.txt"))
    assert found.code == "E141"
    assert "if it is one of these, set --kind" in found.remedy
    assert find_model(Path("notes.txt"), "tflite").kind == "tflite"
    (folder / "empty").mkdir()
    found = _refusal(find_model, Path("empty"))
    assert found.code == "E141"
    assert ".safetensors file" in found.remedy
    (folder / "empty" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert find_model(Path("empty")).kind == "pytorch"


@pytest.mark.usefixtures("folder")
def test_batch_sizes_that_the_model_takes_are_measured() -> None:
    rows = Tensor("x", "float32", ("batch", 8))
    signature = Signature((rows,), (), {"batch": (8, 16)}, "batch", {"batch": 8})
    with pytest.raises(StepError) as caught:
        measured_batch_sizes((1, 12), signature)
    found = caught.value
    assert found.code == "E440"
    (size,) = re.findall(r"such as (\d+),", found.remedy)
    assert measured_batch_sizes((int(size),), signature) == (int(size),)
    assert "or leave it out" in found.remedy
    fixed = [{"tensor": "x", "dtype": "float32", "shape": [None, 8]}]
    model = _join("  dims: {batch: {min: 8, max: 16, multiple_of: 8}}\n", fixed)
    assert measured_batch_sizes(batch_sizes(load_spec("spec.yaml"), model), model.signature) == (8, 16)


def _tls(certificate: Path, key: Path) -> Any:
    return _load(f"{BASE}serving: {{tls: {{certificate: {certificate}, key: {key}}}}}\n")


@pytest.mark.usefixtures("folder")
def test_a_certificate_is_exchanged_as_it_is_told() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        good, other = certificate(place, "good"), certificate(place, "other")
        expired = certificate(place, "expired", begins=timedelta(days=-2), ends=timedelta(days=-1))
        binary = place / "binary.crt", place / "binary.key"
        for path, pem in zip(binary, good, strict=True):
            path.write_bytes(base64.b64decode("".join(pem.read_text(encoding="ascii").splitlines()[1:-1])))
        for files, told in (
            ((place / "none.crt", good[1]), "put the file there"),
            ((expired[0], expired[1]), "renew it"),
            ((good[0], other[1]), "use the key that the certificate was made for"),
            ((good[0], binary[1]), "write the key as PEM"),
            ((binary[0], good[1]), "write the certificate as PEM"),
        ):
            found = _refusal(_tls, *files)
            assert found.code == "E481"
            assert told in found.remedy
            _tls(*good)

        locked = certificate(place, "locked", password=b"password")
        (command,) = re.findall(r"`(openssl .+?)`", _refusal(_tls, *locked).remedy)
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl")
        subprocess.run([*command.split(), "-passin", "pass:password"], cwd=place, check=True)
        _tls(locked[0], place / "plain.key")
