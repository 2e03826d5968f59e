"""Determines a step's key before it runs, whether its result is cached, and if not, why."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.artifacts.fates import Fates, StepFate
from orchestrator.artifacts.winner import Winner
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid, StoreFailed
from orchestrator.machine.user_code import ImportPath, changed_code
from orchestrator.optimize.sources import SOURCES
from orchestrator.plan.contenders import nobody_to_measure
from orchestrator.plan.keys import differences, key_parts, step_key
from orchestrator.plan.step import FileInput, Plan, Step, StepInput, StepOutput, Took
from orchestrator.spec.load import LoadedSpec
from orchestrator.steps.context import Ending
from orchestrator.steps.roles import variant_of
from orchestrator.store.digest import digest_path, sha256_bytes
from orchestrator.store.receipts import Receipt
from orchestrator.store.store import Store
from orchestrator.store.user_code import NO_USER_CODE, UserCode

__all__ = ["Outcome", "Resolved", "Resolver", "blocked_message", "fates_document"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended: done with a receipt, failed with an error, or skipped because a step that it needs failed.

    Attributes:
        receipt: of a step that is done, or that failed for a reason that is remembered.
        error: why the step failed or was skipped.
        ending: how the worker ended; None for a step that was skipped.
        took: when a step ran that has no receipt; None if it was skipped.
    """

    status: Literal["done", "failed", "skipped"]
    receipt: Receipt | None = None
    error: Diagnostic | None = None
    ending: Ending | None = None
    took: Took | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A step whose inputs are all known.

    Attributes:
        key: the step's key. parts: the parts of the key.
        status: `cached` when the result is there, else `run`, or `forced` if it is to run in any case.
        reason: why, in words.
        outcome: of a cached step.
    """

    key: str
    parts: Mapping[str, Any]
    status: Literal["cached", "run", "forced"]
    reason: str
    outcome: Outcome | None


def blocked_message(producer: str, outcome: Outcome) -> str:
    """Why a step that needs `producer` is skipped; the first reason of a chain."""
    reason = "failed" if outcome.error is None else outcome.error.message
    return reason if outcome.status == "skipped" else f"{producer} did not succeed: {reason}"


def fates_document(plan: Plan, outcomes: Mapping[str, Outcome]) -> Fates:
    """The fates of all candidates' steps, as `select` reads them."""
    ended = [(step, outcomes[step.id]) for step in plan.steps if step.candidate is not None and step.id in outcomes]
    return Fates(steps={step.id: StepFate.of(step.kind, o.status, o.ending, o.error) for step, o in ended})


class Resolver:
    """Finds keys and results for one plan in one store.

    Args:
        loaded: the spec, so that errors point at the right line when a user file cannot be read.
        plan: the plan.
        store: where results and receipts are kept.

    Attributes:
        trees: the store's, with the outputs of steps.
    """

    def __init__(self, loaded: LoadedSpec, plan: Plan, store: Store) -> None:
        self._loaded = loaded
        self._plan = plan
        self._cache = store.stat_cache
        self.trees = store.trees
        self._receipts = store.receipts
        self._import_paths: dict[tuple[str, ...], ImportPath] = {}

    def follow(self, plan: Plan) -> None:
        """Use the expanded plan from now on."""
        self._plan = plan

    def file_digest(self, source: FileInput) -> str:
        """The sha256 of a user file.

        Raises:
            SpecInvalid: it cannot be read, or it is not the file that the spec pins by `sha256`.
        """
        try:
            found = digest_path(source.path, self._cache)
        except StoreFailed as error:  # a folder with a link, a device or a name that is not UTF-8
            raise SpecInvalid(
                *(replace(each, code="E203", span=self._loaded.span(source.at)) for each in error.diagnostics)
            ) from error
        except OSError as error:
            raise SpecInvalid(
                Diagnostic(
                    code="E203",
                    message=f"cannot read {source.path}: {error.strerror}",
                    span=self._loaded.span(source.at),
                    remedy="give the path of a file that exists and can be read",
                )
            ) from error
        if source.at == ("model", "source", "weights"):
            self._check_pinned(source, found)
        return found

    def _check_pinned(self, source: FileInput, found: str) -> None:
        """Check the model against the spec's `sha256`: of its file, of its folder, or of all its files if there are several."""
        spec, model = self._loaded.spec.model.source, self._plan.model
        if spec.sha256 is None or (model is None and SOURCES[spec.kind].further_files):
            return  # the second case: its list of files is still being read
        further = sorted(model.files) if model is not None else []
        if further:
            paths = {name: source.beside(name) for name in further}
            listed = [f"{found}  {source.path.name}", *(f"{self.file_digest(paths[name])}  {name}" for name in further)]
            found = sha256_bytes("".join(f"{line}\n" for line in listed).encode())
        if found == spec.sha256:
            return
        what, of = ("folder", "its digest") if source.path.is_dir() else ("file", "its sha256")
        if further:
            of = f"the sha256 of what `{shlex.join(['sha256sum', source.path.name, *further])}` prints"
        raise SpecInvalid(
            Diagnostic(
                code="E204",
                message=f"{source.path.name} is not the {what} that `sha256` pins",
                span=self._loaded.span(("model", "source", "sha256")),
                cause=f"{of} is {found}",
                remedy=f"restore the {what} that was pinned, or write the new sha256 if the change is intended",
            )
        )

    def resolve(self, step: Step, outcomes: Mapping[str, Outcome], *, forced: bool = False) -> Resolved | None:
        """The step's key and whether its result is there; None while a producer's outcome is not known."""
        inputs = self._input_digests(step, outcomes)
        if inputs is None:
            return None
        if step.gathers_fates:
            inputs["fates"] = sha256_bytes(fates_document(self._plan, outcomes).as_bytes())
        code = self._code_digests(step)
        code |= self.code_of_import(step, outcomes).digests()
        parts = key_parts(step, inputs, code, self._plan.here)
        key = step_key(parts)
        if forced:
            return Resolved(key, parts, "forced", "forced by --replace", None)
        receipt = self._receipts.read(key)
        if receipt is None:
            return Resolved(key, parts, "run", self._reason(step, parts), None)
        if changed := self._changed_code(step, receipt):
            return Resolved(key, parts, "run", changed, None)
        if receipt.manifest is not None and (damage := self.trees.verify(receipt.manifest)):
            return Resolved(key, parts, "run", f"its stored result is damaged: {damage}", None)
        if receipt.outcome == "failed":
            outcome = Outcome("failed", receipt, receipt.error, Ending.REFUSED)
            return Resolved(key, parts, "cached", "failed before, for a reason that has not changed", outcome)
        return Resolved(
            key, parts, "cached", f"computed {receipt.started}", Outcome("done", receipt, ending=Ending.DONE)
        )

    def fixed_parts(self, step: Step) -> dict[str, Any]:
        """The parts of the step's key that are known before anything has run: all but the inputs from other steps."""
        files = {role: self.file_digest(s) for role, s in step.inputs.items() if isinstance(s, FileInput)}
        return key_parts(step, files, self._code_digests(step), self._plan.here)

    def present_inputs(self, step: Step, outcomes: Mapping[str, Outcome]) -> dict[str, StepInput]:
        """The inputs of a step whose producers have ended, without optional ones whose producer failed."""
        return {
            role: source
            for role, source in self._inputs(step, outcomes).items()
            if isinstance(source, FileInput) or outcomes[source.step].status == "done"
        }

    def tree_of(self, source: StepOutput, outcomes: Mapping[str, Outcome]) -> str:
        """The digest of a finished step's output tree."""
        receipt = outcomes[source.step].receipt
        assert receipt is not None
        assert receipt.manifest is not None
        return receipt.manifest.digest

    def blocked_by(self, step: Step, outcomes: Mapping[str, Outcome]) -> str | None:
        """The first producer that this step needs and that failed, if any."""
        for role, source in step.inputs.items():
            if isinstance(source, StepOutput) and role not in step.optional:
                outcome = outcomes.get(source.step)
                if outcome is not None and outcome.status != "done":
                    return source.step
        return None

    def skipped_because(self, step: Step, outcomes: Mapping[str, Outcome]) -> str:
        """Why the step is not run: one that it needs failed, or it cannot change the outcome; empty if it is to run."""
        if (blocker := self.blocked_by(step, outcomes)) is not None:
            return blocked_message(blocker, outcomes[blocker])
        if step.pointless or step.contenders is None or any(producer not in outcomes for producer in step.producers):
            return step.pointless
        return nobody_to_measure(
            step,
            {
                role: self.trees.path(self.tree_of(source, outcomes))
                for role, source in self.present_inputs(step, outcomes).items()
                if isinstance(source, StepOutput)
            },
        )

    def _code_digests(self, step: Step) -> dict[str, str]:
        return {file.name(self._plan.project): self.file_digest(file) for file in step.code}

    def _input_digests(self, step: Step, outcomes: Mapping[str, Outcome]) -> dict[str, str] | None:
        if step.gathers_fates and any(s.candidate is not None and s.id not in outcomes for s in self._plan.steps):
            return None
        digests: dict[str, str] = {}
        for role, source in self._inputs(step, outcomes).items():
            known, found = self._digest_of(source, outcomes)
            if not known:
                return None
            if found is not None:
                digests[role] = found
        return digests

    def _inputs(self, step: Step, outcomes: Mapping[str, Outcome]) -> dict[str, StepInput]:
        """The step's inputs; for a step that takes only the winner, without the other variants."""
        if not step.only_winner:
            return dict(step.inputs)
        chosen = step.inputs["winner"]
        winner = outcomes.get(chosen.step) if isinstance(chosen, StepOutput) else None
        if winner is None or winner.receipt is None or winner.receipt.manifest is None:
            return dict(step.inputs)
        wanted = Winner.read(self.trees.path(winner.receipt.manifest.digest)).variant
        return {role: source for role, source in step.inputs.items() if variant_of(role) in {None, wanted}}

    def _digest_of(self, source: StepInput, outcomes: Mapping[str, Outcome]) -> tuple[bool, str | None]:
        """Whether the input is known, and its digest unless it is absent."""
        if isinstance(source, FileInput):
            return True, self.file_digest(source)
        outcome = outcomes.get(source.step)
        if outcome is None:
            return False, None
        if outcome.status != "done" or outcome.receipt is None or outcome.receipt.manifest is None:
            return True, None
        manifest = outcome.receipt.manifest
        return True, manifest.files[source.file].sha256 if source.file else manifest.digest

    def code_of_import(self, step: Step, outcomes: Mapping[str, Outcome]) -> UserCode:
        """What `import` used of the user's code, for a later step that runs it too."""
        source = step.inputs.get("import")
        if step.user_code is None or not isinstance(source, StepOutput):
            return NO_USER_CODE
        receipt = outcomes[source.step].receipt
        return NO_USER_CODE if receipt is None else receipt.found

    def _import_path(self, step: Step) -> ImportPath:
        """Where the step finds modules; the folders are listed once for all steps."""
        roots = () if step.user_code is None else step.user_code.path
        if roots not in self._import_paths:
            self._import_paths[roots] = ImportPath(self._plan.project, roots)
        return self._import_paths[roots]

    def _changed_code(self, step: Step, receipt: Receipt) -> str | None:
        """What has changed of the user's code that the step used, in words."""
        if receipt.found == NO_USER_CODE:
            return None
        return changed_code(receipt.found, self._import_path(step), self._cache)

    def _reason(self, step: Step, parts: Mapping[str, Any]) -> str:
        last = self._receipts.latest(step.id, self._plan.name)
        if last is None:
            return "never run"
        changed = differences(last.parts, parts)
        if not changed:
            return "its stored result is gone"
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        return changed[0] + more
