"""What a reviewer of a plan should know before approving it."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.backends.table import BACKENDS
from orchestrator.machine.here import Here
from orchestrator.optimize.variants import Candidate
from orchestrator.plan.cuda import cuda_notes
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.steps.benchmark import nothing_proves_the_service_level
from orchestrator.spec.load import LoadedSpec

__all__ = ["plan_notes"]


def plan_notes(loaded: LoadedSpec, model: PlannedModel, here: Here, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """A sentence each, without a full stop."""
    spec = loaded.spec
    servers = [here.server(name) for name in sorted({c.backend for c in candidates}) if BACKENDS[name].served]
    one_by_one = [f"requests are answered one by one: {model.one_by_one}"] if model.one_by_one else []
    notes = [*model.notes, *one_by_one, *cuda_notes(spec, here.cuda)]
    for server in servers:
        notes += server.notes
    if spec.model.samples is None:
        notes.append("no `samples:` are given, so parity is proven on random inputs only")
    elif here.random_samples:
        notes.append("the samples are the random ones of `mlo init`, so parity is proven on random inputs only")
    unset = sorted(name for name, digest in here.variables.items() if digest is None)
    if unset:
        notes.append(f"not set in the environment of mlo: {', '.join(unset)} (`model.source.env`)")
    if accepted := spec.verify.accept_traced:
        notes.append(
            f"tracing may freeze {', '.join(accepted)} (`verify.accept_traced`): a variant that does is right only for requests "
            "that lead to the same there as the samples"
        )
    if (present := here.fingerprint["cpus"]) < spec.hardware.cpus:
        notes.append(
            f"this machine has {present:g} CPUs, so `hardware.cpus: {spec.hardware.cpus:g}` is measured on fewer"
        )
    if nothing_proves_the_service_level(spec, here, candidates):
        notes.append(
            "no server can be measured on this machine, so no candidate can prove `slo`, and `apply` fails with E501 without "
            "measuring anything; `slo: {enforce: false}` deploys the best one without that proof"
        )
    if not servers:
        return tuple(notes)  # and there is no image
    if spec.image.base is None or "@sha256:" not in spec.image.base:
        notes.append("the base image is named by tag; pin it with `image: {base: NAME@sha256:DIGEST}`")
    return tuple(notes)
