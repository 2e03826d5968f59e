"""Cases of TensorFlow's and LiteRT's models, and their steps, run in the process that has TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.artifacts.imported import Imported
from orchestrator.spec.gates import Precision
from orchestrator.steps.context import StepError
from orchestrator.store.digest import digest_tree
from tests.frameworks.step_process import Done, StepProcess, in_two_processes
from tests.frameworks.verify_case import verify_params

SOURCES = {
    "keras": "tensorflow.keras_source",
    "saved-model": "tensorflow.saved_model_source",
    "tflite": "litert.source",
}
CONVERSIONS = {
    "keras": {name: f"tensorflow.convert:to_{name.replace('-', '_')}" for name in ("saved-model", "onnx", "tflite")},
    "tflite": {name: f"litert.convert:to_{name}" for name in ("onnx", "tflite")},
}
CONVERSIONS["saved-model"] = CONVERSIONS["keras"]
QUANTIZERS = {"onnx": "onnx.quantize:to_int8", "tflite": "litert.convert:to_int8"}


Tensors = Mapping[str, tuple[str, list[int | str]]]


@dataclass(frozen=True)
class Case:
    """A model, and what the spec says of it.

    Attributes:
        inputs: name → (dtype, shape).
        own: `{"inputs": {name in the spec: name in the model}, "outputs": {...}}`.
        samples: by name; random ones are made where there are none.
    """

    kind: str
    weights: str
    inputs: Tensors
    outputs: Sequence[str]
    dims: Mapping[str, tuple[int, int]]
    batch: str | None = "batch"
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    samples: str | None = None

    @property
    def signature(self) -> dict[str, Any]:
        return {
            "inputs": [{"name": n, "dtype": d, "shape": s} for n, (d, s) in self.inputs.items()],
            "outputs": [{"name": n, "dtype": "", "shape": None} for n in self.outputs],
            "dims": {name: list(bounds) for name, bounds in self.dims.items()},
            "batch": self.batch,
        }


_ROWS = {"batch": (1, 32)}
_SEQUENCES = {"batch": (1, 16), "length": (1, 40)}
_ONE_SEQUENCE = {"batch": (1, 1), "length": (1, 40)}
_IMAGE: Tensors = {"image": ("float32", ["batch", 8, 8, 1])}
_FOUR: Tensors = {"x": ("float32", ["batch", 4])}
_SIX: Tensors = {"x": ("float32", ["batch", "length", 6])}
_TWO: Tensors = {"mask": ("float32", ["batch", "length"]), "ids": ("int32", ["batch", "length"])}
_HOURS: Tensors = {"minutes": ("int32", ["batch", 3]), "day": ("int32", ["batch"])}
_OF_HOURS = ["hour", "minute", "name", "hot"]
_LOGITS = {"outputs": {"logits": "output_0"}}

CASES: dict[str, Case] = {
    "cnn": Case("keras", "cnn.keras", _IMAGE, ["logits"], _ROWS, samples="digits.npz"),
    "two_in_two_out": Case("keras", "two_in_two_out.keras", _TWO, ["tokens", "score"], _SEQUENCES),
    "lstm": Case("keras", "lstm.keras", _SIX, ["y"], _SEQUENCES),
    "lstm_batch_of_one": Case("keras", "lstm.keras", _SIX, ["y"], _ONE_SEQUENCE),
    "gru": Case("keras", "gru.keras", _SIX, ["y"], _SEQUENCES),
    "attention": Case("keras", "attention.keras", {"x": ("float32", ["batch", "length", 16])}, ["y"], _SEQUENCES),
    "encoder": Case(
        "keras", "encoder.keras", {"ids": ("int32", ["batch", "length"])}, ["tokens"], _SEQUENCES, samples="ids.npz"
    ),
    "underscore": Case("keras", "lstm.keras", {"_x": _SIX["x"]}, ["y"], _SEQUENCES, own={"inputs": {"_x": "x"}}),
    "no_counterpart": Case("keras", "no_counterpart.keras", _FOUR, ["y"], _ROWS, own={"outputs": {"y": "erfinv"}}),
    "renamed": Case(
        "saved-model",
        "cnn_saved_model",
        {"picture": ("float32", ["batch", 8, 8, 1])},
        ["scores"],
        _ROWS,
        own={"inputs": {"picture": "image"}, "outputs": {"scores": "output_0"}},
    ),
    "saved_lstm": Case(
        "saved-model", "lstm_saved_model", _SIX, ["y"], _ONE_SEQUENCE, own={"outputs": {"y": "output_0"}}
    ),
    "words": Case("saved-model", "words_saved_model", {"word": ("string", ["batch"])}, ["vector"], _ROWS),
    "hours": Case("saved-model", "hours_saved_model", _HOURS, _OF_HOURS, _ROWS),
    "tflite_hours": Case("tflite", "hours.tflite", _HOURS, _OF_HOURS, _ROWS),
    "tflite_cnn": Case("tflite", "cnn.tflite", _IMAGE, ["logits"], _ROWS, own=_LOGITS, samples="digits.npz"),
    "tflite_batch_of_one": Case(
        "tflite", "cnn_batch_of_one.tflite", {"image": ("float32", [1, 8, 8, 1])}, ["output_0"], {}, batch=None
    ),
    "tflite_float_io": Case(
        "tflite", "cnn_float_io.tflite", _IMAGE, ["logits"], _ROWS, own=_LOGITS, samples="digits.npz"
    ),
    "tflite_integer_io": Case(
        "tflite", "cnn_integer_io.tflite", {"image": ("uint8", ["batch", 8, 8, 1])}, ["output_0"], _ROWS
    ),
    "tflite_two_in_two_out": Case("tflite", "two_in_two_out.tflite", _TWO, ["score", "tokens"], _SEQUENCES),
    "tflite_texts": Case(
        "tflite",
        "texts.tflite",
        {"words": ("string", ["n"]), "which": ("int64", ["m"])},
        ["chosen", "known"],
        {"n": (2, 8), "m": (1, 4)},
        batch=None,
    ),
    "buckets": Case("tflite", "buckets.tflite", _FOUR, ["y"], _ROWS),
    "noisy": Case("tflite", "noisy.tflite", _FOUR, ["y"], _ROWS),
    "mixing": Case("tflite", "mixing.tflite", _FOUR, ["y"], _ROWS),
    "counting": Case("tflite", "counting.tflite", _FOUR, ["y"], _ROWS),
    "counting_later": Case("tflite", "counting_later.tflite", _FOUR, ["y"], _ROWS),
    "select_ops": Case("tflite", "select_ops.tflite", _FOUR, ["y"], _ROWS),
    "custom_ops": Case("tflite", "custom_ops.tflite", _FOUR, ["y"], _ROWS),
}


class Converted:
    """One case's steps, each run once, in the process that has TensorFlow."""

    def __init__(self, case: Case, process: StepProcess, models: Path) -> None:
        self.case = case
        self._process = process
        self.weights = models / case.weights
        self._samples = None if case.samples is None else models / case.samples
        self._done: dict[str, Done | StepError] = {}

    def inspect(self) -> Any:
        """What `inspection.json` holds."""
        module = SOURCES[self.case.kind]
        return self._process.step(f"{module}:inspect", {"source": self.source}, {"weights": self.weights}).json(
            "inspection.json"
        )

    @property
    def source(self) -> dict[str, Any]:
        return {"kind": self.case.kind, "names": self.case.own}

    @property
    def imported(self) -> Done:
        """What the import step leaves.

        Raises:
            StepError: as the step.
        """
        samples = {} if self._samples is None else {"samples": self._samples}
        inputs = {"weights": self.weights, **samples}
        asked = {"signature": self.case.signature, "seed": 0, "max_rows": 256}
        return self._once("import", f"{SOURCES[self.case.kind]}:check", inputs, **asked)

    def variant(self, format_name: str, precision: str = "fp32") -> Done:
        """The model in a format and a precision.

        Raises:
            StepError: as the conversion.
        """
        inputs = {"weights": self.weights, "import": self.imported.folder}
        if precision == "fp32":
            return self._once(format_name, CONVERSIONS[self.case.kind][format_name], inputs)
        if format_name == "onnx":
            inputs = {"model": self.variant("onnx").folder, "import": self.imported.folder}
        return self._once(f"{format_name}-{precision}", QUANTIZERS[format_name], inputs, seed=0)

    def verdict(self, format_name: str, precision: Precision = "fp32") -> Any:
        """What `verdict.json` says of a variant."""
        inputs = {"import": self.imported.folder, "variant": self.variant(format_name, precision).folder}
        params = verify_params(Imported.read(self.imported.folder).signature, format_name, precision)
        return self._process.step("orchestrator.verify.step:verify", params, inputs).json("verdict.json")

    def _once(self, name: str, function: str, inputs: Mapping[str, Path], **params: Any) -> Done:
        if name not in self._done:
            try:
                self._done[name] = self._process.step(function, {"source": self.source, **params}, inputs)
            except StepError as error:
                self._done[name] = error
        done = self._done[name]
        if isinstance(done, StepError):
            raise done
        return done


def digests_in_two_processes(
    models: Path, folder: Path, variants: Mapping[str, Sequence[tuple[str, str]]]
) -> tuple[dict[str, str], dict[str, str]]:
    """The digests of the variants that two fresh processes make, whose sets are in different orders.

    Args:
        models: what was built.
        folder: an empty one.
        variants: name of a case → formats and precisions.
    """

    def digests(process: StepProcess) -> dict[str, str]:
        made = {}
        for name, wanted in variants.items():
            converted = Converted(CASES[name], process, models)
            for format_name, precision in wanted:
                tree = converted.variant(format_name, precision).folder
                made[f"{name} {format_name} {precision}"] = digest_tree(tree).digest
        return made

    return in_two_processes(folder, digests)
