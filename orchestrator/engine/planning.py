"""From a spec's path to a plan with the status of every step."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.inspecting import read_model
from orchestrator.engine.locking import look_up_hashes
from orchestrator.engine.observing import observe_here
from orchestrator.engine.preview import Preview, preview
from orchestrator.errors import SpecInvalid, UsageError
from orchestrator.events import Observer, ignore
from orchestrator.plan.compile import compile_plan
from orchestrator.plan.cuda import require_devices
from orchestrator.plan.found import planned_model
from orchestrator.plan.keys import differences, shortened
from orchestrator.plan.plan_file import SavedDeployment, SavedPlan
from orchestrator.plan.resolve import Resolver
from orchestrator.plan.step import Plan
from orchestrator.plan.steps.image import image_platform
from orchestrator.release.live import Live, observe
from orchestrator.spec.load import LoadedSpec, load_spec
from orchestrator.spec.sample_arrays import UNREADABLE, array_headers, sample_problems
from orchestrator.spec.signature import Signature
from orchestrator.spec.types import AS_WRITTEN
from orchestrator.spec.yaml_tree import SPEC
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from orchestrator.artifacts.decision import Decision

__all__ = ["Planned", "make_plan"]


@dataclass(frozen=True, slots=True)
class Planned:
    """A spec with its plan, and the status of every step."""

    loaded: LoadedSpec
    plan: Plan
    resolver: Resolver
    live: Live
    preview: Preview
    forced: frozenset[str]

    def document(self) -> SavedPlan:
        """The plan as it is saved and shown."""
        recorded = self.live.recorded
        deployed = (
            None
            if recorded is None
            else SavedDeployment(revision=recorded.revision, rendered_digest=recorded.rendered_digest)
        )
        return SavedPlan(
            spec=str(Path(self.loaded.document.file).absolute()),
            environment=self.loaded.environment,
            platform=None if self.loaded.platform is None else str(self.loaded.platform),
            spec_digest=self.loaded.digest,
            machine=dict(self.plan.here.fingerprint),
            name=self.plan.name,
            steps=self.preview.steps,
            refused=self.plan.refused,
            notes=self.plan.notes,
            parts={step: dict(parts) for step, parts in self.preview.parts.items()},
            compiled={step.id: self.resolver.fixed_parts(step) for step in self.plan.steps},
            forced=tuple(sorted(self.forced)),
            deployed=deployed,
            signature=self._signature(),
        )

    def _signature(self) -> dict[str, Any] | None:
        model = self.plan.model
        return {**model.signature.as_json(), "names": model.names} if model is not None and model.was_read else None

    def output(self, store: Store, step_id: str) -> Path | None:
        """What the step left, if its result exists."""
        step = next(step for step in self.preview.steps if step.id == step_id)
        receipt = store.receipts.read(step.key) if step.key is not None and step.status == "cached" else None
        return None if receipt is None or receipt.manifest is None else store.trees.path(receipt.manifest.digest)

    def decision(self, store: Store) -> Decision | None:
        """The decision, if the result of `select` exists."""
        folder = self.output(store, "select")
        if folder is None:
            return None
        from orchestrator.artifacts.decision import Decision  # noqa: PLC0415 - a run without changes needs none

        return Decision.read(folder)

    def explain_step(self, store: Store, step_id: str) -> dict[str, Any]:
        """All information about a step, for `mlo explain`."""
        view = next(step for step in self.preview.steps if step.id == step_id)
        facts: dict[str, Any] = {"id": view.id, "status": view.status, "reason": view.reason, "key": view.key}
        parts = self.preview.parts.get(step_id)
        if parts is not None:
            facts["parts"] = list(_leaves(parts))
        receipts = store.receipts
        last = receipts.latest(step_id, self.plan.name)
        if last is None:
            return facts
        if parts is not None:
            facts["changed"] = differences(last.parts, parts)
        record = store.home.logs / f"{step_id}-{last.key[:12]}"
        return facts | {
            "started": last.started,
            "seconds": last.seconds,
            "peak memory": f"{last.peak_bytes / 2**20:.0f} MiB" if last.peak_bytes else "not known",
            "summary": last.summary,
            "log": str(record / "log.txt") if record.is_dir() else "",
            "reproduce": str(record / "reproduce.sh") if record.is_dir() else "",
        }

    def value_and_origin(self, key: str) -> tuple[Any, str] | None:
        """A value of the effective spec by its dotted path, as the spec writes it, and its origin; None if there is no such key."""
        value: Any = self.loaded.spec.model_dump(mode="json", context=AS_WRITTEN, by_alias=True)
        path: list[str | int] = []
        for part in key.split("."):
            if isinstance(value, dict) and part in value:
                value = value[part]
                path.append(part)
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
                path.append(int(part))
            else:
                return None
        origin = self.loaded.origin(tuple(path))
        if origin is None:
            return value, "default"
        return value, f"{self.loaded.document.file} line {origin.line}" if origin.layer == SPEC else str(origin)


def _leaves(parts: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in sorted(parts.items()):
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {shortened(name, value)}"


def make_plan(
    path: Path,
    store: Store,
    *,
    platform: Path | None = None,
    environment: str | None = None,
    replaced: Sequence[str] = (),
    observer: Observer = ignore,
    image: bool = False,
) -> Planned:
    """Load, compile and look up.

    Args:
        path: the spec.
        store: where results and receipts are kept.
        platform: the platform file; None looks for it.
        environment: an entry of `environments:`.
        replaced: ids of steps to run even if they are cached.
        observer: gets the events of the step `inspect`, which is run here unless the model was read before.
        image: whether an image is to be built of what is rendered, even if the spec's target takes none.

    Raises:
        SpecInvalid: the spec is not valid, or requires something that this machine lacks.
        StepFailed: the model cannot be read.
        UsageError: `replaced` names a step that is not in the plan.
    """
    loaded = load_spec(path, platform=platform, environment=environment)
    here = observe_here(loaded)
    if image or loaded.spec.deploy.takes_image != "no":
        here = replace(here, hashes=look_up_hashes(loaded, image_platform(here), store, observer))
    require_devices(loaded, here)
    model = planned_model(loaded, read_model(loaded, here, store, observer))
    _check_samples(loaded, model.signature)
    plan = compile_plan(loaded, model, here)
    resolver = Resolver(loaded, plan, store)
    live = observe(loaded, store)
    _check_replaced(plan, resolver, live, replaced)
    forced = frozenset(replaced)
    return Planned(loaded, plan, resolver, live, preview(plan, resolver, live, forced=forced), forced)


def _check_samples(loaded: LoadedSpec, signature: Signature) -> None:
    """Compare the headers of the samples' arrays with the signature; `import` does so with their values.

    Raises:
        SpecInvalid: E340 to E345, with all problems.
    """
    if loaded.spec.model.samples is None:
        return
    path = loaded.spec.path(loaded.spec.model.samples, loaded.folder)
    try:
        headers = array_headers(path)
    except UNREADABLE as error:
        problem = Diagnostic(
            "E340",
            "the samples are not an npz file",
            cause="the file is empty" if path.is_file() and not path.stat().st_size else str(error),
            remedy="save the inputs with numpy.savez(path, NAME=array, ...)",
            at=("model", "samples"),
        )
        raise SpecInvalid(loaded.located(problem)) from error
    if problems := [loaded.located(each) for each in sample_problems(headers, signature)]:
        raise SpecInvalid(*problems)


def _check_replaced(plan: Plan, resolver: Resolver, live: Live, replaced: Sequence[str]) -> None:
    known = [step.id for step in plan.steps if not step.live]
    if plan.growths and not set(replaced) <= set(known):  # steps that the plan has grown by so far can be run again too
        lives = {step.id for step in plan.steps if step.live}
        grown = preview(plan, resolver, live).steps
        known = [line.id for line in grown if line.kind != "growth" and line.id not in lives]
        resolver.follow(plan)
    for name in replaced:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise UsageError(
                Diagnostic(
                    "E213",
                    f"the plan has no step `{name}`",
                    remedy=f"did you mean `{close[0]}`?" if close else f"name one of {', '.join(known)}",
                )
            )
