"""Folders that are refused: code, links, files elsewhere, and weights that are not there or do not fit."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator.steps.context import StepError
from tests.frameworks.transformers.case import (
    TASK,
    Folder,
    arrays,
    changed,
    saved,
    sentence_transformer,
    write_json,
)

pytestmark = pytest.mark.frameworks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The folder of a classifier."""
    return saved("classifier", tmp_path / "model")


def index(path: Path, **places: str) -> None:
    """An index of weights in place of the file itself."""
    (path / "model.safetensors").rename(path / "part.safetensors")
    names = load_file(path / "part.safetensors")
    write_json(path / "model.safetensors.index.json", {"weight_map": dict.fromkeys(names, "part.safetensors") | places})


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_map": {"AutoModelForSequenceClassification": "code.Model"}},
        {"text_config": {"parts": [{"auto_map": {"AutoConfig": "code.Config"}}]}},
    ],
)
def test_code_that_the_configuration_names_is_refused_and_not_run(path: Path, settings: dict[str, Any]) -> None:
    (path / "code.py").write_text(f"from pathlib import Path\nPath({str(path)!r}, 'ran').touch()\n", encoding="utf-8")
    changed(path / "config.json", **settings)

    error = Folder(path, path.parent).refused("E303")

    assert "code." in error.cause
    assert not (path / "ran").exists()


def test_python_files_that_nothing_names_are_ignored(path: Path) -> None:
    for name in ("configuration_bert", "modeling_bert", "tokenization_bert", "custom_generate"):
        (path / f"{name}.py").write_text("raise SystemExit('run')\n", encoding="utf-8")

    Folder(path, path.parent).imported()

    assert not [name for name, module in sys.modules.items() if str(path) in str(getattr(module, "__file__", ""))]


def test_settings_that_would_choose_other_code_have_no_effect(path: Path) -> None:
    changed(path / "config.json", _attn_implementation="somebody/kernels", return_dict=False, output_attentions=True)

    _, facts = Folder(path, path.parent).imported()

    assert facts["rows"] == 32


def as_checkpoint(path: Path, *, zipped: bool = True) -> dict[str, torch.Tensor]:
    """Let the folder hold pytorch_model.bin in place of safetensors, as older versions of the library saved it."""
    state: dict[str, torch.Tensor] = load_file(path / "model.safetensors")
    torch.save(state, path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (path / "model.safetensors").unlink()
    return state


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_in_place_of_safetensors_gives_the_same_answers(path: Path, *, zipped: bool) -> None:
    expected, _ = Folder(path, path.parent).imported()
    as_checkpoint(path, zipped=zipped)

    found, _ = Folder(path, path.parent).imported()

    answers = arrays(found / "baseline.npz")
    assert answers.keys() == arrays(expected / "baseline.npz").keys()
    for name, given in arrays(expected / "baseline.npz").items():
        np.testing.assert_array_equal(answers[name], given)


def test_a_checkpoint_in_parts_gives_the_same_answers(path: Path) -> None:
    expected, _ = Folder(path, path.parent).imported()
    state = as_checkpoint(path)
    (path / "pytorch_model.bin").unlink()
    places = {name: f"pytorch_model-0000{number % 2 + 1}-of-00002.bin" for number, name in enumerate(state)}
    for file in set(places.values()):
        torch.save({name: state[name] for name, place in places.items() if place == file}, path / file)
    write_json(path / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": places})

    found, _ = Folder(path, path.parent).imported()

    for name, given in arrays(expected / "baseline.npz").items():
        np.testing.assert_array_equal(arrays(found / "baseline.npz")[name], given)


class Payload:
    """What a malicious file would hold: unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_checkpoint_is_run(path: Path, *, zipped: bool) -> None:
    state = {**as_checkpoint(path), "hook": Payload(path.parent / "was run")}
    torch.save(state, path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)

    error = Folder(path, path.parent).refused("E303")

    assert "open`" in error.cause
    assert not (path.parent / "was run").exists()


def test_a_damaged_checkpoint_is_reported(path: Path) -> None:
    as_checkpoint(path)
    content = (path / "pytorch_model.bin").read_bytes()
    (path / "pytorch_model.bin").write_bytes(content[: len(content) // 2])

    assert "truncated or damaged" in Folder(path, path.parent).refused("E301").cause


def test_a_checkpoint_beside_safetensors_is_never_opened(path: Path) -> None:
    (path / "pytorch_model.bin").write_bytes(b"not a pickle")

    Folder(path, path.parent).imported()


def test_parts_that_do_not_exist_are_named(path: Path) -> None:
    index(path, **{"classifier.bias": "pytorch_model-00001-of-00001.bin"})

    assert "pytorch_model-00001-of-00001.bin" in Folder(path, path.parent).refused("E301").cause


@pytest.mark.parametrize("name", ["model.pt", "weights.bin"])
def test_weights_under_other_names_are_reported(path: Path, name: str) -> None:
    as_checkpoint(path)
    (path / "pytorch_model.bin").rename(path / name)

    error = Folder(path, path.parent).refused("E301")

    assert name in error.cause
    assert "save_pretrained" in error.remedy


@pytest.mark.parametrize("place", ["../outside.safetensors", "/etc/outside.safetensors", "..\\outside.safetensors"])
def test_an_index_that_names_files_elsewhere_is_refused(path: Path, place: str) -> None:
    index(path, **{"classifier.bias": place})

    assert place in Folder(path, path.parent).refused("E354").cause


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "further"])
def test_links_are_refused(path: Path, name: str) -> None:
    outside = path.parent / "outside"
    if name == "further":
        outside.mkdir()
    else:
        (path / name).rename(outside)
    (path / name).symlink_to(outside)

    assert name in Folder(path, path.parent).refused("E354").cause


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    assert "missing" in Folder(tmp_path / "absent", tmp_path).refused("E301").cause


def test_a_file_in_place_of_the_folder_is_reported(path: Path) -> None:
    assert "a file" in Folder(path / "model.safetensors", path.parent).refused("E301").cause


def test_a_folder_without_configuration_is_reported(path: Path) -> None:
    (path / "config.json").unlink()

    assert "model.safetensors" in Folder(path, path.parent).refused("E301").cause


def test_a_folder_without_weights_is_reported(path: Path) -> None:
    (path / "model.safetensors").unlink()

    assert "config.json" in Folder(path, path.parent).refused("E301").cause


@pytest.mark.parametrize(
    ("name", "words"), [("tf_model.h5", "TensorFlow"), ("model.gguf", "GGUF"), ("a.onnx", "`onnx`")]
)
def test_weights_of_another_framework_are_reported(path: Path, name: str, words: str) -> None:
    (path / "model.safetensors").rename(path / name)

    assert words in Folder(path, path.parent).refused("E301").cause


def test_missing_parts_are_reported(path: Path) -> None:
    index(path, **{"classifier.bias": "other.safetensors"})

    assert "other.safetensors" in Folder(path, path.parent).refused("E301").cause


@pytest.mark.parametrize("part", [0.5, 0.01])
def test_truncated_weights_are_reported(path: Path, part: float) -> None:
    file = path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])

    Folder(path, path.parent).refused("E302")


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, '{"a": "\\ud800'])
def test_a_damaged_configuration_is_reported(path: Path, content: str) -> None:
    (path / "config.json").write_text(content, encoding="utf-8")

    assert "config.json" in Folder(path, path.parent).refused("E302").message


@pytest.mark.parametrize("places", [None, [], {}, {"classifier.bias": 3}])
def test_a_damaged_index_is_reported(path: Path, places: Any) -> None:
    index(path)
    write_json(path / "model.safetensors.index.json", {"weight_map": places})

    assert "weight_map" in Folder(path, path.parent).refused("E302").cause


@pytest.mark.parametrize("kind", ["from-the-future", None])
def test_a_type_that_the_library_does_not_know_is_reported(path: Path, kind: str | None) -> None:
    changed(path / "config.json", model_type=kind)

    error = Folder(path, path.parent).refused("E370")

    assert (kind or "what type") in error.message
    assert "BertForSequenceClassification" in error.cause


@pytest.mark.parametrize("settings", [{"hidden_size": "many"}, {"num_attention_heads": 3}, {"hidden_act": "unheard"}])
def test_settings_that_the_library_does_not_take_are_reported(path: Path, settings: dict[str, Any]) -> None:
    changed(path / "config.json", **settings)

    assert Folder(path, path.parent).refused("E370").cause


def test_weights_that_lack_the_head_of_the_task_are_reported(tmp_path: Path) -> None:
    folder = Folder(saved("encoder", tmp_path / "model"), tmp_path, task="text-classification")

    error = folder.refused("E372")

    assert "classifier.weight: missing" in error.cause
    assert "text-classification" in error.remedy


def test_weights_that_lack_a_layer_are_reported(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    missing = "bert.encoder.layer.1.output.dense.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != missing}, path / "model.safetensors")

    assert f"{missing}: missing" in Folder(path, path.parent).refused("E372").cause


def test_weights_of_another_size_are_reported(path: Path) -> None:
    changed(path / "config.json", id2label={str(number): str(number) for number in range(5)}, label2id=None)

    assert "classifier.weight: [3, 16] stored, [5, 16] in the model" in Folder(path, path.parent).refused("E372").cause


def test_quantized_weights_are_reported(path: Path) -> None:
    changed(path / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})

    assert "gptq" in Folder(path, path.parent).refused("E373").cause


@pytest.mark.parametrize("alone", [True, False])
def test_adapters_are_reported(path: Path, alone: bool) -> None:
    if alone:
        shutil.rmtree(path)
        path.mkdir()
    write_json(path / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "somebody/model"})

    assert "merge_and_unload" in Folder(path, path.parent).refused("E376").remedy


@pytest.mark.parametrize("architectures", [["GPT2LMHeadModel"], ["BertForPreTraining"], [], None])
def test_a_task_that_mlo_does_not_serve_is_reported(path: Path, architectures: list[str] | None) -> None:
    changed(path / "config.json", architectures=architectures)

    assert "text-classification" in Folder(path, path.parent).refused("E371").remedy


def test_a_task_that_the_type_does_not_have_is_reported(path: Path) -> None:
    error = Folder(path, path.parent, task="image-classification").refused("E371", TASK)

    assert "bert" in error.message
    assert "fill-mask" in error.remedy


def test_models_that_take_more_than_texts_are_refused(tmp_path: Path) -> None:
    from orchestrator.frameworks.transformers.library import transformers

    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.CLIPConfig(text_config={**tiny, "vocab_size": 20}, vision_config={**tiny, "image_size": 32})
    transformers.CLIPModel(config).save_pretrained(tmp_path / "model")

    assert "CLIPModel takes" in Folder(tmp_path / "model", tmp_path).refused("E375").cause


def modules(path: Path, *types: str, where: str = "1_Pooling") -> Path:
    """Other modules than those of the folder."""
    entries = [{"type": kind, "path": "" if number == 0 else where} for number, kind in enumerate(types)]
    write_json(path / "modules.json", entries)
    return path


OWN = "sentence_transformers.models."


@pytest.mark.parametrize("kind", ["code.Pooling", "os.system", "sentence_transformers_extra.models.Pooling", ""])
def test_custom_modules_are_refused(tmp_path: Path, kind: str) -> None:
    path = sentence_transformer(tmp_path / "model", {"pooling_mode": "mean"})
    (path / "code.py").write_text("raise SystemExit('run')\n", encoding="utf-8")

    error = Folder(modules(path, f"{OWN}Transformer", kind), tmp_path).refused("E303")

    assert f"`{kind}`" in error.cause


@pytest.mark.parametrize(
    "types",
    [
        [f"{OWN}Transformer", f"{OWN}LSTM", f"{OWN}Pooling"],
        [f"{OWN}BoW"],
        [f"{OWN}Pooling"],
        [f"{OWN}Transformer", f"{OWN}Pooling", f"{OWN}Pooling"],
    ],
)
def test_modules_that_are_not_served_are_reported(tmp_path: Path, types: list[str]) -> None:
    path = sentence_transformer(tmp_path / "model", {"pooling_mode": "mean"})

    Folder(modules(path, *types), tmp_path).refused("E374")


@pytest.mark.parametrize("pooling", [{"pooling_mode": "attention"}, {"pooling_mode": "mean", "include_prompt": False}])
def test_pooling_that_is_not_served_is_reported(tmp_path: Path, pooling: dict[str, Any]) -> None:
    Folder(sentence_transformer(tmp_path / "model", pooling), tmp_path).refused("E374")


@pytest.mark.parametrize("where", ["../outside", "/etc"])
def test_modules_outside_of_the_folder_are_refused(tmp_path: Path, where: str) -> None:
    path = sentence_transformer(tmp_path / "model", {"pooling_mode": "mean"})

    folder = Folder(modules(path, f"{OWN}Transformer", f"{OWN}Pooling", where=where), tmp_path)

    assert where in folder.refused("E354").cause


@pytest.mark.parametrize("content", ["{}", "[1]", "[", '[{"path": 3}]'])
def test_damaged_modules_are_reported(tmp_path: Path, content: str) -> None:
    path = sentence_transformer(tmp_path / "model", {"pooling_mode": "mean"})
    (path / "modules.json").write_text(content, encoding="utf-8")

    with pytest.raises(StepError) as caught:
        Folder(path, tmp_path).imported()

    assert caught.value.code in {"E302", "E303"}


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"activation_function": "os.system"}, "E374"),
        ({"activation_function": "torch.hub.load"}, "E374"),
        ({"out_features": None}, "E374"),
        ({"use_residual": True}, "E374"),
        ({"out_features": 5}, "E372"),
    ],
)
def test_dense_layers_that_do_not_fit_are_reported(tmp_path: Path, settings: dict[str, Any], code: str) -> None:
    path = sentence_transformer(tmp_path / "model", {"pooling_mode": "mean"}, "Dense")
    (path / "2_Dense").mkdir()
    config = {"in_features": 16, "out_features": 4, "activation_function": "torch.nn.modules.activation.Tanh"}
    write_json(path / "2_Dense" / "config.json", config | settings)
    save_file(
        {"linear.weight": torch.zeros(4, 16), "linear.bias": torch.zeros(4)}, path / "2_Dense" / "model.safetensors"
    )

    Folder(path, tmp_path).refused(code)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_dense_layers_are_read_from_a_checkpoint_too(tmp_path: Path, *, checkpoint: bool) -> None:
    path = sentence_transformer(tmp_path / "model", {"pooling_mode": "mean"}, "Dense")
    dense = path / "2_Dense"
    dense.mkdir()
    write_json(
        dense / "config.json",
        {"in_features": 16, "out_features": 4, "activation_function": "torch.nn.modules.linear.Identity"},
    )
    weights = {"linear.weight": torch.eye(4, 16), "linear.bias": torch.full((4,), 7.0)}
    if checkpoint:
        torch.save(weights, dense / "pytorch_model.bin")
    else:
        save_file(weights, dense / "model.safetensors")

    found, _ = Folder(path, tmp_path).imported()

    (answers,) = arrays(found / "baseline.npz").values()
    assert answers.shape[1] == 4
    assert 6 < answers.mean() < 8


def test_a_damaged_tokenizer_does_not_matter(path: Path) -> None:
    (path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unheard"}}), encoding="utf-8")
    (path / "vocab.txt").unlink()

    _, facts = Folder(path, path.parent).imported()

    assert "no tokenizer that loads" in facts["notes"][0]
