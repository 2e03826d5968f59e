"""Reads a model in a worker process for a spec that does not exist yet, and makes random samples for it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.artifacts.inspection import FoundWeights, Inspection
from orchestrator.artifacts.probed import Probed
from orchestrator.diagnostics import Diagnostic
from orchestrator.draft.detect import ModelPath
from orchestrator.draft.factories import module_classes
from orchestrator.draft.naming import relative_path
from orchestrator.draft.propose import ProposedModel, proposed_model, with_probed, with_samples
from orchestrator.draft.text import SpecDraft, StateDict
from orchestrator.engine.inspecting import read_model, run_single_step
from orchestrator.engine.observing import observe_here
from orchestrator.errors import Interrupted, SpecInvalid, StepFailed, UsageError
from orchestrator.events import Observer
from orchestrator.optimize.sources import SOURCES
from orchestrator.plan.revisions import PROBE, SAMPLES
from orchestrator.plan.step import FileInput, Step
from orchestrator.plan.steps.source import require_source_tools, source_parameters
from orchestrator.spec.load import LoadedSpec, load_spec
from orchestrator.spec.sample_arrays import UNREADABLE, ArrayHeader, array_headers
from orchestrator.spec.signature import Signature
from orchestrator.steps.parameters import (
    InspectParameters,
    ProbeParameters,
    RandomSamplesParameters,
    SourceParameters,
    TensorNames,
)
from orchestrator.steps.roles import WEIGHTS, file_role
from orchestrator.store.store import Store

__all__ = ["DraftRequest", "draft_spec"]

_AT = ("model", "source", "weights")
_NO_SUCH_SIGNATURE = "E350"
_TENSOR = {"name": "x", "dtype": "float32", "shape": [1]}


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """The input for a first spec.

    Attributes:
        model: the model.
        name: of the deployment.
        folder: the spec's folder; paths in the spec are relative to it.
        samples: the user's real samples, if any.
        random_file: the file for random samples; None for no samples.
        settings: further keys of the source, such as `signature` of a SavedModel.
        run: whether the model may be called, to find out what it takes.
    """

    model: ModelPath
    name: str
    folder: Path
    samples: Path | None = None
    random_file: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    run: bool = True


def draft_spec(wanted: DraftRequest, store: Store, observer: Observer) -> tuple[SpecDraft, bytes | None]:
    """The content of the spec, and its random samples as an .npz file.

    There are no random samples if there are real ones, none are requested, or the model does not describe its inputs.

    Raises:
        StepFailed: the model is damaged or not supported; the error names its path, not a line of a spec.
        UsageError: E141, its path cannot be written in a spec.
    """
    reader = _Reader(wanted, store, observer)
    weights = _in_a_spec(relative_path(wanted.model.path, wanted.folder))
    found = reader.found()
    model = proposed_model(found, named=SOURCES[wanted.model.kind].describes)
    if wanted.samples is not None:
        model = with_samples(model, _headers(wanted.samples))
    if wanted.run:
        model = reader.probed(model, found.files)
    signature = model.signature()
    made = None
    if wanted.samples is None and wanted.random_file is not None and signature is not None:
        made = reader.random_samples(model, signature).read_bytes()
    samples = wanted.samples if made is None else wanted.random_file
    draft = SpecDraft(
        name=wanted.name,
        kind=wanted.model.kind,
        weights=weights,
        size=_size(wanted.model.path, found.files),
        model=model,
        samples=None if samples is None else _in_a_spec(relative_path(samples, wanted.folder)),
        random=made is not None,
        state=None if found.weights is None else _state_dict(found.weights, wanted.folder),
        settings=wanted.settings,
    )
    return draft, made


def _headers(samples: Path) -> dict[str, ArrayHeader]:
    """The samples' arrays; none if the file cannot be read, which planning reports with the line of the spec."""
    try:
        return array_headers(samples)
    except UNREADABLE:
        return {}


def _in_a_spec(path: str) -> str:
    if path.isprintable():
        return path
    raise UsageError(
        Diagnostic(
            "E141",
            f"{path.encode('unicode_escape').decode()} cannot be named in a spec",
            cause="the path has characters that cannot be printed",
            remedy="rename the file or folder",
        )
    )


def _size(model: Path, further: Sequence[str]) -> int:
    """The size of a model with all its files, bytes."""
    beside = [model, *(model.parent / name for name in further)]
    files = (path for path in model.rglob("*") if path.is_file()) if model.is_dir() else beside
    return sum(path.stat().st_size for path in files)


def _state_dict(found: FoundWeights, folder: Path) -> StateDict:
    return StateDict(found.weights_key, found.tensors, found.more, module_classes(folder))


class _Reader:
    """Reads a model with steps that are cached like those of a plan."""

    def __init__(self, wanted: DraftRequest, store: Store, observer: Observer) -> None:
        self._model = wanted.model
        self._row = SOURCES[wanted.model.kind]
        self._name = wanted.name
        self._settings = wanted.settings
        self._run = store, observer

    def found(self) -> Inspection:
        """The content of the model's file."""
        with self._stand_in() as loaded:
            here = observe_here(loaded)
            document = read_model(loaded, here, *self._run)
            if document is not None:
                return document
            require_source_tools(loaded, here)
            step = Step(
                id="inspect",
                kind="inspect",
                function=self._row.inspect,
                revision=self._row.inspect_revision,
                params=InspectParameters(SourceParameters(self._model.kind)).as_json(),
                inputs={WEIGHTS: FileInput.of(self._model.path.absolute(), _AT, loaded.folder, WEIGHTS)},
                tools=self._row.tools,
                at=_AT,
            )
            return Inspection.read(run_single_step(loaded, here, step, *self._run))

    def probed(self, model: ProposedModel, files: Sequence[str]) -> ProposedModel:
        """The proposal with what calls of the model show; a failure of these is a question to the user."""
        signature = model.signature()
        if not self._row.probe or signature is None:
            return model
        stated = tuple(name for name, dim in model.dims.items() if dim.from_model)
        with self._stand_in() as loaded:
            names = TensorNames(
                inputs={each.name: each.own or each.name for each in model.inputs},
                outputs={each.name: each.own or each.name for each in model.outputs},
            )
            source = replace(source_parameters(loaded, None), names=names if self._row.describes else TensorNames())
            weights = FileInput.of(self._model.path.absolute(), _AT, loaded.folder, WEIGHTS)
            step = Step(
                id="probe",
                kind="inspect",
                function=self._row.probe,
                revision=PROBE,
                params=ProbeParameters(source, signature, stated).as_json(),
                inputs={WEIGHTS: weights, **{file_role(name): weights.beside(name) for name in files}},
                tools=self._row.tools,
                at=_AT,
            )
            try:
                return with_probed(model, Probed.read(run_single_step(loaded, observe_here(loaded), step, *self._run)))
            except Interrupted:
                raise
            except StepFailed as error:
                why = "; ".join(each.message for each in error.diagnostics)
                return replace(model, questions=[f"what the model takes could not be found out by calling it: {why}"])

    def random_samples(self, model: ProposedModel, signature: Signature) -> Path:
        """An .npz file of random inputs, in the store; for a model of texts they are made-up sentences."""
        parameters = RandomSamplesParameters(signature, seed=0, inner_batch=model.inner_batch)
        step = Step(
            id="samples",
            kind="inspect",
            function="orchestrator.frameworks.source.samples:write_random",
            revision=SAMPLES,
            params=parameters.as_json(),
            inputs={},
            tools=("numpy",),
            at=("model", "samples"),
        )
        with self._stand_in() as loaded:
            if self._row.text_samples:
                names = TensorNames(inputs={each.name: each.own or each.name for each in model.inputs})
                source = replace(source_parameters(loaded, None), names=names)
                step = replace(
                    step,
                    function="orchestrator.frameworks.source.samples:write_random_texts",
                    params=replace(parameters, source=source).as_json(),
                    inputs={WEIGHTS: FileInput.of(self._model.path.absolute(), _AT, loaded.folder, WEIGHTS)},
                    tools=self._row.tools,
                )
            return run_single_step(loaded, observe_here(loaded), step, *self._run) / "samples.npz"

    @contextmanager
    def _stand_in(self) -> Iterator[LoadedSpec]:
        """A minimal spec for the model, because steps need a spec. Errors do not refer to its lines."""
        source = {"kind": self._model.kind, "weights": str(self._model.path.absolute()), **self._settings}
        source |= self._row.required
        model: dict[str, Any] = {"source": source}
        if not self._row.describes:
            model |= {"inputs": [_TENSOR], "outputs": [{"name": "y"}]}
        document = {"apiVersion": "mlo/v1", "kind": "ModelDeployment", "metadata": {"name": self._name}, "model": model}
        # Outside any project, so that no platform file applies.
        with tempfile.TemporaryDirectory(prefix="mlo-init-") as folder:
            file = Path(folder) / "spec.yaml"
            file.write_text(json.dumps(document), encoding="utf-8")
            try:
                yield load_spec(file)
            except (StepFailed, SpecInvalid) as error:
                raise StepFailed(*map(_of_the_path, error.diagnostics)) from error


def _of_the_path(diagnostic: Diagnostic) -> Diagnostic:
    """The error without the temporary spec's line, and with an option instead of a key in the remedy."""
    signature = "; `mlo init` takes it as --signature NAME" if diagnostic.code == _NO_SUCH_SIGNATURE else ""
    return replace(diagnostic, span=None, label="", remedy=diagnostic.remedy + signature)
