"""Folders of the Transformers library: what is read from them, and what the import step proves and records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from orchestrator.frameworks.transformers.library import transformers
from orchestrator.frameworks.transformers.source import open_baseline
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import SourceParameters
from tests.frameworks.transformers.case import (
    LABELS,
    LONGEST,
    VOCABULARY,
    WIDTH,
    Folder,
    arrays,
    changed,
    model,
    saved,
    sentence_transformer,
    write_json,
)

pytestmark = pytest.mark.frameworks

TEXT = ["batch", "sequence"]
INPUTS = {
    "classifier": ["input_ids", "attention_mask", "token_type_ids"],
    "answers": ["input_ids", "attention_mask", "token_type_ids"],
    "encoder": ["input_ids", "attention_mask", "token_type_ids"],
    "words": ["input_ids", "attention_mask"],
    "masks": ["input_ids", "attention_mask"],
    "images": ["pixel_values"],
}
OUTPUTS: dict[str, dict[str, list[Any]]] = {
    "classifier": {"logits": ["batch", LABELS]},
    "answers": {"start_logits": TEXT, "end_logits": TEXT},
    "encoder": {"last_hidden_state": [*TEXT, WIDTH]},
    "words": {"logits": [*TEXT, LABELS]},
    "masks": {"logits": [*TEXT, len(VOCABULARY)]},
    "images": {"logits": ["batch", LABELS]},
}


@pytest.mark.parametrize("name", INPUTS)
def test_tensors_are_derived_from_the_configuration(tmp_path: Path, name: str) -> None:
    found = Folder(saved(name, tmp_path / "model"), tmp_path).found()

    assert [tensor["tensor"] for tensor in found["inputs"]] == INPUTS[name]
    assert {tensor["tensor"]: tensor["shape"] for tensor in found["outputs"]} == OUTPUTS[name]
    if name == "images":
        assert [(t["dtype"], t["shape"]) for t in found["inputs"]] == [("float32", ["batch", 3, 8, 8])]
        assert found["ranges"] == {}
    else:
        assert {(t["dtype"], tuple(t["shape"])) for t in found["inputs"]} == {("int64", ("batch", "sequence"))}
        assert found["ranges"] == {"sequence": [1, LONGEST]}


def test_token_types_are_only_inputs_if_the_tokenizer_produces_them(tmp_path: Path) -> None:
    path = saved("classifier", tmp_path / "model")
    changed(path / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])

    found = Folder(path, tmp_path).found()

    assert [tensor["tensor"] for tensor in found["inputs"]] == ["input_ids", "attention_mask"]


def test_the_tokenizers_limit_counts_if_it_is_lower(tmp_path: Path) -> None:
    path = saved("classifier", tmp_path / "model")
    changed(path / "tokenizer_config.json", model_max_length=10)

    assert Folder(path, tmp_path).found()["ranges"] == {"sequence": [1, 10]}


def test_a_long_range_must_be_declared(tmp_path: Path) -> None:
    path = saved("encoder", tmp_path / "model", tokenizer=False)
    changed(path / "config.json", max_position_embeddings=8192)

    found = Folder(path, tmp_path).found()

    assert found["ranges"] == {"sequence": [1, 512]}
    assert any("up to 8192 tokens" in note["text"] for note in found["notes"])


@pytest.mark.parametrize("name", INPUTS)
def test_the_baseline_answers_as_the_library_does(tmp_path: Path, name: str) -> None:
    folder, facts = Folder(saved(name, tmp_path / "model"), tmp_path).imported()

    inputs = {key: torch.from_numpy(array) for key, array in arrays(folder / "samples.npz").items()}
    with torch.inference_mode():
        expected = model(name)(**inputs)
    for output, array in arrays(folder / "baseline.npz").items():
        np.testing.assert_allclose(array, expected[output].numpy(), rtol=1e-4, atol=1e-5)
    assert facts["framework"] == {
        "torch": torch.__version__.partition("+")[0],
        "transformers": transformers.__version__,
    }
    assert facts["parameters"] <= sum(weight.numel() for weight in model(name).parameters())
    assert not facts["edge_cases_not_finite"]


def test_the_baseline_runs_as_a_runtime(tmp_path: Path) -> None:
    folder = Folder(saved("classifier", tmp_path / "model"), tmp_path)
    signature = folder.signature()
    imported, _ = folder.imported(signature)
    samples = arrays(imported / "samples.npz")

    runtime = open_baseline(
        SourceParameters.from_json(folder.source),
        {"weights": folder.path},
        tmp_path,
        Signature.from_json(signature),
        threads=1,
    )

    np.testing.assert_allclose(
        runtime.run(samples)["logits"], arrays(imported / "baseline.npz")["logits"], rtol=1e-4, atol=1e-5
    )
    assert runtime.facts().runtime == "transformers"


def test_generated_samples_are_sentences(tmp_path: Path) -> None:
    folder, facts = Folder(saved("classifier", tmp_path / "model"), tmp_path).imported()

    samples = arrays(folder / "samples.npz")
    ids, mask = samples["input_ids"], samples["attention_mask"]
    assert ids.dtype == mask.dtype == np.int64
    assert (ids[:, 0] == VOCABULARY.index("[CLS]")).all()
    assert len(np.unique(ids)) > 20
    assert ids.max() < len(VOCABULARY)
    assert 0 < mask.mean() < 1
    assert (np.diff(mask, axis=1) <= 0).all(), "padding is at the end"
    assert (ids[mask == 0] == 0).all()
    assert facts["samples"] == "random"
    assert facts["notes"] == ["samples: none are given, so a few sentences are made up and tokenized"]


@pytest.mark.parametrize("settings", [None, {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}])
def test_without_a_tokenizer_tokens_are_random(tmp_path: Path, settings: dict[str, Any] | None) -> None:
    path = saved("classifier", tmp_path / "model", tokenizer=settings is not None)
    if settings is not None:
        changed(path / "tokenizer_config.json", **settings)

    folder, facts = Folder(path, tmp_path).imported()

    samples = arrays(folder / "samples.npz")
    assert len(np.unique(samples["input_ids"])) > 20
    assert samples["input_ids"].max() < len(VOCABULARY)
    assert set(np.unique(samples["attention_mask"])) == {0, 1}
    assert not samples["token_type_ids"].any()
    assert "no tokenizer that loads" in facts["notes"][0]


def test_given_samples_are_real(tmp_path: Path) -> None:
    ids = np.arange(40).reshape(8, 5)
    samples = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    folder, facts = Folder(saved("classifier", tmp_path / "model"), tmp_path).imported(samples=samples)

    assert (facts["samples"], facts["rows"], facts["notes"]) == ("real", 8, [])
    np.testing.assert_array_equal(arrays(folder / "samples.npz")["input_ids"], ids)


def test_inputs_may_have_other_names_and_another_order(tmp_path: Path) -> None:
    folder = Folder(saved("classifier", tmp_path / "model"), tmp_path)
    signature = folder.signature()
    own = {"mask": "attention_mask", "tokens": "input_ids", "kinds": "token_type_ids"}
    signature["inputs"] = [{"name": name, "dtype": "int64", "shape": TEXT} for name in own]
    signature["outputs"] = [{"name": "classes", "dtype": "", "shape": None}]

    imported, _ = folder.imported(signature, names={"inputs": own, "outputs": {"classes": "logits"}})

    samples = arrays(imported / "samples.npz")
    assert list(samples) == list(own)
    with torch.inference_mode():
        expected = model("classifier")(**{own[name]: torch.from_numpy(array) for name, array in samples.items()})
    np.testing.assert_allclose(arrays(imported / "baseline.npz")["classes"], expected.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("role", "index", "tensor"),
    [("inputs", 1, "pixel_values"), ("outputs", 0, "last_hidden_state")],
)
def test_tensors_that_the_model_does_not_have_are_reported(tmp_path: Path, role: str, index: int, tensor: str) -> None:
    folder = Folder(saved("classifier", tmp_path / "model"), tmp_path)
    signature = folder.signature()
    signature[role][index]["name"] = tensor

    with pytest.raises(StepError, match=f"has no {role[:-1]} `{tensor}`") as caught:
        folder.imported(signature)

    assert (caught.value.code, caught.value.at) == ("E375", ("model", role, index, "name"))


def test_a_row_without_tokens_is_answered(tmp_path: Path) -> None:
    folder, _ = Folder(saved("classifier", tmp_path / "model"), tmp_path).imported()

    edges = [arrays(path) for path in (folder / "edge").glob("*.inputs.npz")]

    assert any(not edge["attention_mask"].any() for edge in edges)
    assert all(np.isfinite(arrays(path)["logits"]).all() for path in (folder / "edge").glob("*.outputs.npz"))


def test_weights_in_half_precision_are_computed_in_float32(tmp_path: Path) -> None:
    path = saved("classifier", tmp_path / "model")
    save_file(
        {name: tensor.half() for name, tensor in model("classifier").state_dict().items()}, path / "model.safetensors"
    )

    folder, facts = Folder(path, tmp_path).imported()

    assert "source: weights are stored as float16 and computed in float32" in facts["notes"]
    assert arrays(folder / "baseline.npz")["logits"].dtype == np.float32


def test_weights_in_several_files_are_joined(tmp_path: Path) -> None:
    path = saved("classifier", tmp_path / "model", max_shard_size="8KB")
    assert len(list(path.glob("*.safetensors"))) > 1

    folder, facts = Folder(path, tmp_path).imported()

    whole, _ = Folder(saved("classifier", tmp_path / "whole"), tmp_path / "other").imported()
    np.testing.assert_array_equal(arrays(folder / "baseline.npz")["logits"], arrays(whole / "baseline.npz")["logits"])
    assert facts["notes"][:-1] == []


def test_a_task_that_uses_a_part_of_the_weights_says_so(tmp_path: Path) -> None:
    folder = Folder(saved("classifier", tmp_path / "model"), tmp_path, task="feature-extraction")

    imported, facts = folder.imported()

    assert list(arrays(imported / "baseline.npz")) == ["last_hidden_state"]
    assert facts["notes"][0] == "source: 2 stored tensors are not part of BertModel: classifier.bias, classifier.weight"


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def hidden_and_mask(folder: Path) -> tuple[Any, Any]:
    samples = arrays(folder / "samples.npz")
    with torch.inference_mode():
        found = model("encoder")(**{name: torch.from_numpy(array) for name, array in samples.items()})
    return found.last_hidden_state.numpy(), samples["attention_mask"][..., None]


POOLED: dict[str, Any] = {
    "mean": lambda h, m: (h * m).sum(1) / m.sum(1),
    "max": lambda h, m: np.where(m == 0, -np.inf, h).max(1),
    "cls": lambda h, m: h[:, 0],
    "mean_sqrt_len_tokens": lambda h, m: (h * m).sum(1) / np.sqrt(m.sum(1)),
    "lasttoken": lambda h, m: np.stack([row[count - 1] for row, count in zip(h, m.sum(1)[:, 0], strict=True)]),
    "weightedmean": lambda h, m: (
        (h * m * np.arange(1, h.shape[1] + 1)[:, None]).sum(1) / (m * np.arange(1, h.shape[1] + 1)[:, None]).sum(1)
    ),
}


@pytest.mark.parametrize("mode", POOLED)
def test_sentences_are_pooled_as_their_folder_says(tmp_path: Path, mode: str) -> None:
    folder = Folder(sentence_transformer(tmp_path / "model", {"pooling_mode": mode}, "Normalize"), tmp_path)

    found = folder.found()
    imported, facts = folder.imported()

    assert [(t["tensor"], t["shape"]) for t in found["outputs"]] == [("sentence_embedding", ["batch", WIDTH])]
    assert found["ranges"] == {"sequence": [1, 20]}
    hidden, mask = hidden_and_mask(imported)
    embedding = arrays(imported / "baseline.npz")["sentence_embedding"]
    np.testing.assert_allclose(embedding, unit(POOLED[mode](hidden, mask)), rtol=1e-3, atol=1e-5)
    assert facts["samples"] == "random"


def test_several_pooling_modes_are_concatenated(tmp_path: Path) -> None:
    pooling = {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    folder = Folder(sentence_transformer(tmp_path / "model", pooling), tmp_path)

    imported, _ = folder.imported()

    hidden, mask = hidden_and_mask(imported)
    expected = np.concatenate([POOLED["cls"](hidden, mask), POOLED["mean"](hidden, mask)], axis=1)
    np.testing.assert_allclose(arrays(imported / "baseline.npz")["sentence_embedding"], expected, rtol=1e-3, atol=1e-5)
    assert folder.found()["outputs"][0]["shape"] == ["batch", 2 * WIDTH]


def test_a_dense_layer_follows_the_pooling(tmp_path: Path) -> None:
    path = sentence_transformer(tmp_path / "model", {"pooling_mode": "mean"}, "Dense", "Normalize")
    (path / "2_Dense").mkdir()
    activation = "torch.nn.modules.activation.Tanh"
    write_json(
        path / "2_Dense" / "config.json",
        {"in_features": WIDTH, "out_features": 4, "bias": True, "activation_function": activation},
    )
    weights, bias = torch.randn(4, WIDTH), torch.randn(4)
    save_file({"linear.weight": weights, "linear.bias": bias}, path / "2_Dense" / "model.safetensors")

    folder = Folder(path, tmp_path)
    imported, _ = folder.imported()

    hidden, mask = hidden_and_mask(imported)
    expected = unit(np.tanh(POOLED["mean"](hidden, mask) @ weights.numpy().T + bias.numpy()))
    np.testing.assert_allclose(arrays(imported / "baseline.npz")["sentence_embedding"], expected, rtol=1e-3, atol=1e-4)
    assert folder.found()["outputs"][0]["shape"] == ["batch", 4]


def test_names_of_newer_sentence_transformers_are_known(tmp_path: Path) -> None:
    path = sentence_transformer(tmp_path / "model", {"pooling_mode": "mean"})
    where = "sentence_transformers.base.modules.transformer.Transformer"
    pooling = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    write_json(path / "modules.json", [{"path": "", "type": where}, {"path": "1_Pooling", "type": pooling}])
    settings = {"modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}}
    write_json(path / "sentence_bert_config.json", settings)

    found = Folder(path, tmp_path).found()

    assert found["outputs"][0]["tensor"] == "sentence_embedding"
    assert found["ranges"] == {"sequence": [1, LONGEST]}


def test_a_model_without_modules_is_pooled_by_the_mean(tmp_path: Path) -> None:
    folder = Folder(saved("encoder", tmp_path / "model"), tmp_path, task="sentence-embedding")

    imported, facts = folder.imported()

    hidden, mask = hidden_and_mask(imported)
    np.testing.assert_allclose(
        arrays(imported / "baseline.npz")["sentence_embedding"], POOLED["mean"](hidden, mask), rtol=1e-3, atol=1e-5
    )
    assert "source: there is no modules.json, so sentences are embedded by the mean of their tokens" in facts["notes"]


@pytest.mark.parametrize("task", ["auto", "text-classification"])
def test_a_cross_encoder_is_a_classifier(tmp_path: Path, task: str) -> None:
    path = saved("classifier", tmp_path / "model")
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    write_json(path / "modules.json", [{"path": "", "type": kind}])
    write_json(path / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})

    found = Folder(path, tmp_path, task=task).found()

    assert [tensor["tensor"] for tensor in found["outputs"]] == ["logits"]


def test_another_task_serves_the_model_of_a_sentence_transformer_alone(tmp_path: Path) -> None:
    path = sentence_transformer(tmp_path / "model", {"pooling_mode": "unheard"}, "LayerNorm")

    found = Folder(path, tmp_path, task="feature-extraction").found()

    assert [tensor["tensor"] for tensor in found["outputs"]] == ["last_hidden_state"]


def test_neither_other_frameworks_nor_the_network_are_used() -> None:
    code = (
        "import os, sys, orchestrator.frameworks.transformers.source\n"
        "assert os.environ['HF_HUB_OFFLINE'] == '1'\n"
        "assert not {'tensorflow', 'keras', 'jax', 'flax'} & set(sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
