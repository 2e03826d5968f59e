"""Converting models of the Transformers library: every size that is declared, the same answers, the same bytes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from orchestrator.artifacts.imported import Imported
from orchestrator.frameworks.onnx.quantize import to_int8
from orchestrator.frameworks.pytorch import convert as torch_convert
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.transform import Transform
from orchestrator.spec.gates import Precision
from orchestrator.spec.signature import Signature
from orchestrator.verify.step import verify
from tests.frameworks.step_process import StepProcess, in_two_processes, one_model
from tests.frameworks.transformers.case import LONGEST, Folder, arrays, saved, sentence_transformer
from tests.frameworks.verify_case import verify_params

pytestmark = pytest.mark.frameworks

CONVERT = {
    "onnx": torch_convert.to_onnx,
    "torchscript": torch_convert.to_torchscript,
    "exported-program": torch_convert.to_exported_program,
}
BF16 = {
    "torchscript": torch_convert.torchscript_to_bf16,
    "exported-program": torch_convert.exported_program_to_bf16,
}


def converted(folder: Folder, imported: Path, step: Any, **params: Any) -> tuple[Path, dict[str, Any]]:
    context = folder.context("convert", {**folder.params(), **params}, {"weights": folder.path, "import": imported})
    return context.output, step(context)


def verdict(folder: Folder, imported: Path, variant: Path, format_name: str, precision: Precision) -> dict[str, Any]:
    signature = Imported.read(imported).signature
    params = verify_params(signature, format_name, precision)
    context = folder.context("verify", params, {"import": imported, "variant": variant})
    verify(context)
    document: dict[str, Any] = json.loads((context.output / "verdict.json").read_text(encoding="utf-8"))
    return document


def made(name: str, root: Path) -> Folder:
    """A folder of `MODELS`, or a sentence-transformer."""
    if name == "sentences":
        return Folder(sentence_transformer(root / "model", {"pooling_mode": "mean"}, "Normalize"), root)
    return Folder(saved(name, root / "model"), root)


class Models:
    """The models of `made`, each imported and converted once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sources: dict[str, tuple[Folder, Path]] = {}
        self._variants: dict[tuple[str, str], tuple[Path, dict[str, Any]]] = {}

    def source(self, name: str) -> tuple[Folder, Path]:
        """A model's folder, and what the import step leaves of it."""
        if name not in self._sources:
            (self._root / name).mkdir()
            folder = made(name, self._root / name)
            self._sources[name] = folder, folder.imported()[0]
        return self._sources[name]

    def variant(self, name: str, format_name: str) -> tuple[Path, dict[str, Any]]:
        """What a conversion leaves of it, and its facts."""
        if (name, format_name) not in self._variants:
            folder, imported = self.source(name)
            self._variants[name, format_name] = converted(folder, imported, CONVERT[format_name])
        return self._variants[name, format_name]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def test_the_table_says_what_is_tested() -> None:
    assert {name for name, row in FORMATS.items() if isinstance(row.convert["transformers"], Transform)} == set(CONVERT)


@pytest.mark.parametrize("format_name", CONVERT)
@pytest.mark.parametrize("name", ["classifier", "answers", "words", "masks", "images", "sentences"])
def test_a_model_converts_at_every_size(models: Models, name: str, format_name: str) -> None:
    folder, imported = models.source(name)

    variant, facts = models.variant(name, format_name)

    sizes = {"batch of 1", "batch of 8"}
    if name != "images":
        sizes |= {"sequence of 1", f"sequence of {20 if name == 'sentences' else LONGEST}"}
        sizes |= {"every dimension at its smallest", "every dimension at its largest"}
    assert sizes <= set(facts["checked"])
    found = verdict(folder, imported, variant, format_name, "fp32")
    assert found["passed"], found["gates"]


def test_the_same_folder_gives_the_same_bytes(models: Models, tmp_path: Path) -> None:
    folder, imported = models.source("sentences")
    inputs = {"weights": folder.path, "import": imported}

    def convert(process: StepProcess) -> dict[str, bytes]:
        # The other formats are compared where PyTorch models are converted.
        done = process.step("pytorch.convert:to_onnx", folder.params(), inputs)
        return {"to_onnx": one_model(done.folder)}

    first, second = in_two_processes(tmp_path / "processes", convert)

    for name, model in first.items():
        assert model == second[name], name
        for path in (str(folder.root), str(tmp_path), sys.prefix, "site-packages"):
            assert path.encode() not in model, name


def test_onnx_has_the_specs_names(tmp_path: Path) -> None:
    folder = made("classifier", tmp_path)
    signature = folder.signature()
    own = {"mask": "attention_mask", "tokens": "input_ids", "kinds": "token_type_ids"}
    signature["inputs"] = [{"name": name, "dtype": "int64", "shape": ["batch", "sequence"]} for name in own]
    signature["outputs"] = [{"name": "classes", "dtype": "", "shape": None}]
    names = {"inputs": own, "outputs": {"classes": "logits"}}
    imported, _ = folder.imported(signature, names=names)

    context = folder.context("convert", folder.params(names), {"weights": folder.path, "import": imported})
    torch_convert.to_onnx(context)

    graph = onnx.load(context.output / "model.onnx").graph
    assert [value.name for value in graph.input] == list(own)
    assert [value.name for value in graph.output] == ["classes"]
    assert verdict(folder, imported, context.output, "onnx", "fp32")["passed"]


@pytest.mark.parametrize("format_name", BF16)
@pytest.mark.parametrize("name", ["classifier", "sentences"])
def test_bfloat16_keeps_the_interface(models: Models, name: str, format_name: str) -> None:
    folder, imported = models.source(name)

    variant, facts = converted(folder, imported, BF16[format_name], seed=0)

    assert facts["precision"] == "bf16"
    resolved = Signature.from_json(json.loads((imported / "imported.json").read_text(encoding="utf-8"))["signature"])
    rows = {name: array[:8] for name, array in arrays(imported / "samples.npz").items()}
    outputs = open_runtime(format_name, variant, resolved, threads=1).run(rows)
    for output, whole in arrays(imported / "baseline.npz").items():
        expected = whole[:8]
        assert outputs[output].dtype == expected.dtype
        cosine = np.vdot(outputs[output], expected) / np.linalg.norm(outputs[output]) / np.linalg.norm(expected)
        assert cosine > 0.99


def test_int8_is_quantized_from_the_onnx_file(models: Models) -> None:
    folder, imported = models.source("sentences")
    variant, _ = models.variant("sentences", "onnx")

    context = folder.context("int8", {**folder.params(), "seed": 0}, {"model": variant, "import": imported})
    facts = to_int8(context)

    assert facts["method"] == "dynamic"
    found = verdict(folder, imported, context.output, "onnx", "int8")
    cosine = next(gate["measured"] for gate in found["gates"] if gate["gate"] == "min_cosine")
    assert cosine > 0.95, "random weights are harder to quantize than trained ones"
