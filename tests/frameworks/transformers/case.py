"""Builds tiny models of the Transformers library with random weights, and runs the steps of their folders on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from orchestrator.frameworks.source.samples import Array
from orchestrator.frameworks.transformers.library import transformers
from orchestrator.frameworks.transformers.source import check, inspect
from orchestrator.steps.context import StepContext, StepError

WEIGHTS = ("model", "source", "weights")
TASK = ("model", "source", "task")
WIDTH, LONGEST, LABELS = 16, 24, 3
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz.,!?"]
VOCABULARY += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
_SMALL = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": LONGEST,
    "num_labels": LABELS,
}
_IMAGE = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}

MODELS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "classifier": ("BertForSequenceClassification", "BertConfig", _SMALL),
    "answers": ("BertForQuestionAnswering", "BertConfig", {**_SMALL, "num_labels": 2}),
    "encoder": ("BertModel", "BertConfig", _SMALL),
    "words": (
        "DistilBertForTokenClassification",
        "DistilBertConfig",
        {
            "vocab_size": len(VOCABULARY),
            "dim": WIDTH,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 24,
            "max_position_embeddings": LONGEST,
            "num_labels": LABELS,
        },
    ),
    "masks": (
        "RobertaForMaskedLM",
        "RobertaConfig",
        # Places are counted from behind the padding's: two more than there are tokens.
        {**_SMALL, "max_position_embeddings": LONGEST + 2, "type_vocab_size": 1},
    ),
    "images": (
        "ViTForImageClassification",
        "ViTConfig",
        {**_IMAGE, "image_size": 8, "patch_size": 4, "num_labels": LABELS},
    ),
}
"""Name → class, class of its configuration, settings."""


@cache
def model(name: str) -> Any:
    """A model, the same weights each time."""
    cls, config, settings = MODELS[name]
    torch.manual_seed(0)
    built = getattr(transformers, cls)(getattr(transformers, config)(**settings)).eval()
    with torch.no_grad():
        for weight in built.parameters():  # the library's own are so small that all answers look alike
            weight.normal_(std=0.3)
    return built


def write_tokenizer(folder: Path, name: str = "BertTokenizer") -> None:
    """A tokenizer that knows letters."""
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": name, "pad_token": "[PAD]", "model_max_length": 512}
    )


def saved(name: str, folder: Path, *, tokenizer: bool = True, **options: Any) -> Path:
    """The folder of a model, with a tokenizer for those that read texts."""
    model(name).save_pretrained(folder, **options)
    if tokenizer and name != "images":
        write_tokenizer(folder, "DistilBertTokenizer" if name == "words" else "BertTokenizer")
    return folder


def sentence_transformer(folder: Path, pooling: Mapping[str, Any], *further: str) -> Path:
    """A folder as the sentence-transformers library writes it: `encoder`, pooling, and the modules in `further`."""
    saved("encoder", folder)
    kinds = ["Transformer", "Pooling", *further]
    places = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds[1:], start=1))]
    entries = [
        {"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    write_json(folder / "modules.json", entries)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", pooling)
    return folder


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


def changed(path: Path, **settings: Any) -> None:
    """A JSON file with other settings; those that are None are taken out."""
    document = json.loads(path.read_text(encoding="utf-8")) | settings
    write_json(path, {key: value for key, value in document.items() if value is not None})


@dataclass(frozen=True)
class Folder:
    """One folder as a spec names it, and where its steps write."""

    path: Path
    root: Path
    task: str = "auto"

    def found(self) -> dict[str, Any]:
        """What `inspect` finds."""
        context = self.context("inspect", {"source": self.source}, {"weights": self.path})
        inspect(context)
        document: dict[str, Any] = json.loads((context.output / "inspection.json").read_text(encoding="utf-8"))
        return document

    @property
    def source(self) -> dict[str, Any]:
        return {"kind": "transformers", "task": self.task}

    def context(self, name: str, params: Mapping[str, Any], inputs: Mapping[str, Path]) -> StepContext:
        """A context with empty folders."""
        number = sum(1 for _ in self.root.glob(f"{name}-*"))
        for part in ("output", "scratch"):
            (self.root / f"{name}-{number}" / part).mkdir(parents=True)
        place = self.root / f"{name}-{number}"
        return StepContext(dict(params), dict(inputs), place / "output", place / "scratch", self.root)

    def signature(self, **dims: tuple[int, int]) -> dict[str, Any]:
        """What the planner makes of what `inspect` finds."""
        found = self.found()
        ranges = {"batch": [1, 8], **found["ranges"], **{name: list(bounds) for name, bounds in dims.items()}}
        used = {dim for tensor in found["inputs"] for dim in tensor["shape"]}
        return {
            "inputs": [{"name": t["tensor"], "dtype": t["dtype"], "shape": t["shape"]} for t in found["inputs"]],
            "outputs": [{"name": t["tensor"], "dtype": "", "shape": t["shape"]} for t in found["outputs"]],
            "dims": {name: bounds for name, bounds in ranges.items() if name in used},
            "batch": "batch",
        }

    def params(self, names: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Of a conversion; an import and a pass take more."""
        return {"source": {**self.source, **({} if names is None else {"names": dict(names)})}}

    def imported(
        self,
        signature: Mapping[str, Any] | None = None,
        samples: Mapping[str, Array] | None = None,
        names: Mapping[str, Any] | None = None,
    ) -> tuple[Path, dict[str, Any]]:
        """What the import step leaves, and its facts."""
        inputs = {"weights": self.path}
        if samples is not None:
            inputs["samples"] = self.root / "samples.npz"
            np.savez(inputs["samples"], **dict(samples))  # type: ignore[arg-type]  # the stub takes names for options
        asked = {"signature": dict(signature or self.signature()), "seed": 0, "max_rows": 256}
        params = {**self.params(names), **asked}
        context = self.context("import", params, inputs)
        return context.output, check(context)

    def refused(self, code: str, at: tuple[str | int, ...] = WEIGHTS) -> StepError:
        """The error of the import step, after `inspect` if that has none."""
        with pytest.raises(StepError) as caught:
            self.imported()
        error = caught.value
        assert (error.code, error.at) == (code, at), f"{error.code} {error.at} {error.message}: {error.cause}"
        assert error.remedy
        return error


def arrays(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
