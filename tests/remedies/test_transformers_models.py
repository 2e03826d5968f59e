"""A folder of the Transformers library that is refused: once it is changed as the message says, it is imported."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.frameworks.transformers.library import transformers
from orchestrator.steps.context import StepError
from tests.frameworks.transformers.case import Folder, changed, saved, sentence_transformer, write_json

pytestmark = pytest.mark.frameworks


@dataclass(frozen=True)
class Model:
    """What a user has.

    Attributes:
        make: writes the folder.
        task: in the spec.
        outputs: how the spec names them; None leaves that to the model.
    """

    make: Callable[[Path], object]
    task: str = "auto"
    outputs: tuple[str, ...] | None = None


Follow = Callable[[Model, StepError], Model]


def _imported(model: Model, folder: Path) -> None:
    folder.mkdir()
    model.make(folder / "model")
    given = Folder(folder / "model", folder, model.task)
    signature = given.signature()
    if model.outputs is not None:
        signature["outputs"] = [{"name": name, "dtype": "", "shape": None} for name in model.outputs]
    given.imported(signature)


def _classifier(folder: Path) -> None:
    saved("classifier", folder, tokenizer=False)


def _encoder(folder: Path) -> None:
    saved("encoder", folder, tokenizer=False)


def _set(file: str = "config.json", **settings: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _classifier(folder)
        changed(folder / file, **settings)

    return make


def _then(first: Callable[[Path], object], then: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        first(folder)
        then(folder)

    return make


def _linked(folder: Path) -> None:
    _classifier(folder.with_name("elsewhere"))
    folder.mkdir()
    for file in folder.with_name("elsewhere").iterdir():
        (folder / file.name).symlink_to(file)


def _copied(model: Model, error: StepError) -> Model:
    (command,) = re.findall(r"cp -rL FOLDER COPY", error.remedy)

    def make(folder: Path) -> None:
        model.make(folder.with_name("links"))
        said = command.replace("FOLDER", "links").replace("COPY", "model")
        subprocess.run(said.split(), cwd=folder.parent, check=True)

    return replace(model, make=make)


def _adapter(folder: Path) -> None:
    _classifier(folder)
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "somebody/model"})


def _two_poolings(folder: Path) -> None:
    sentence_transformer(folder, {"pooling_mode": "mean"}, "Pooling")


def _pooled(mode: str) -> Callable[[Path], object]:
    return lambda folder: sentence_transformer(folder, {"pooling_mode": mode})


def _clip(folder: Path) -> None:
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.CLIPConfig(text_config={**tiny, "vocab_size": 20}, vision_config={**tiny, "image_size": 32})
    transformers.CLIPModel(config).save_pretrained(folder)


def _encoder_decoder(folder: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=40, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=24,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2, forced_eos_token_id=3,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(folder)


def _task_that_is_listed(name: str) -> Follow:
    def follow(model: Model, error: StepError) -> Model:
        assert name in re.findall(r"[a-z]+-[a-z]+", error.remedy), error.remedy
        assert model.task not in error.remedy
        return replace(model, task=name)

    return follow


def _made(make: Callable[[Path], object]) -> Follow:
    return lambda model, _: replace(model, make=make)


def _without(key: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        del document[key]
        write_json(folder / "config.json", document)

    return make


_AUTO_MAP = _set(auto_map={"AutoModelForSequenceClassification": "code.Model"})

CASES: list[tuple[str, Model, str, Follow]] = [
    ("E301", Model(_then(_classifier, lambda f: (f / "model.safetensors").unlink())), "copy the whole folder", _made(_classifier)),
    ("E301", Model(_then(_classifier, lambda f: (f / "model.safetensors").rename(f / "weights.bin"))), "save_pretrained", _made(_classifier)),
    ("E302", Model(_then(_classifier, lambda f: (f / "config.json").write_text("{"))), "copy or save the folder again", _made(_classifier)),
    ("E303", Model(_AUTO_MAP), "remove `auto_map` from config.json", lambda m, _: replace(m, make=_then(m.make, _without("auto_map")))),
    ("E354", Model(_linked), "copy the files themselves", _copied),
    ("E370", Model(_set(model_type=None)), "save the model again with model.save_pretrained(folder)", _made(_classifier)),
    ("E370", Model(_set(hidden_size="many")), "copy or save the folder again", _made(_classifier)),
    ("E371", Model(_set(architectures=["BertForPreTraining"])), "name the task that its weights are for", _task_that_is_listed("text-classification")),
    ("E371", Model(_classifier, task="image-classification"), "tasks of this type: ", _task_that_is_listed("text-classification")),
    ("E371", Model(_encoder_decoder, task="feature-extraction"), "tasks of this type: ", _task_that_is_listed("fill-mask")),
    ("E372", Model(_encoder, task="text-classification"), "Name the `task:` that they are for", lambda m, _: replace(m, task="feature-extraction")),
    ("E372", Model(_set(id2label={str(n): str(n) for n in range(5)}, label2id=None)), "copy the whole folder", _made(_classifier)),
    ("E373", Model(_set(quantization_config={"quant_method": "gptq", "bits": 4})), "as it was before quantization", _made(_classifier)),
    ("E374", Model(_two_poolings), "`task:` with another task serves the model alone", lambda m, _: replace(m, task="feature-extraction")),
    ("E374", Model(_pooled("attention")), "mean", lambda m, e: replace(m, make=_pooled(re.findall(r"\bmean\b", e.remedy)[0]))),
    ("E375", Model(_clip), "models of text (input_ids) or images (pixel_values) can be served", _made(_classifier)),
    ("E375", Model(_classifier, outputs=("last_hidden_state",)), "declare these", lambda m, e: replace(m, outputs=tuple(re.findall(r"`?(logits)`?", e.cause)))),
    ("E375", Model(_classifier, outputs=("last_hidden_state",)), "or leave `outputs` out", lambda m, _: replace(m, outputs=None)),
    ("E376", Model(_adapter), "merge_and_unload().save_pretrained(folder)", _made(_classifier)),
]  # fmt: skip


@pytest.mark.parametrize(("code", "model", "told", "follow"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES])
def test_a_model_is_imported_once_it_is_changed_as_it_is_told(
    tmp_path: Path, code: str, model: Model, told: str, follow: Follow
) -> None:
    with pytest.raises(StepError) as caught:
        _imported(model, tmp_path / "before")
    assert caught.value.code == code, caught.value.diagnostic
    assert told in caught.value.remedy, caught.value.diagnostic

    _imported(follow(model, caught.value), tmp_path / "after")
