"""Whether this machine has the CUDA devices that a spec asks for, and what a reviewer of such a plan should know."""

from __future__ import annotations

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.machine.here import CudaHere, Here
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment

__all__ = ["cuda_notes", "require_devices"]


def require_devices(loaded: LoadedSpec, here: Here) -> None:
    """Whether this machine has the CUDA devices that the spec asks for, if it asks for any.

    Raises:
        SpecInvalid: E205, there are fewer devices than the spec asks for.
    """
    wanted = loaded.spec.hardware.devices
    lacking = None if here.cuda is None else here.cuda.devices.lacking(wanted)
    if here.cuda is None or lacking is None:
        return
    names = here.cuda.devices.names
    fewer = f", or ask for {len(names)} with `hardware.count`" if names else ""
    raise SpecInvalid(
        Diagnostic(
            "E205",
            f"the spec asks for {'a GPU' if wanted == 1 else f'{wanted} GPUs'}, which this machine lacks",
            loaded.span(("hardware", "count" if names else "accelerator")),
            label=lacking,
            cause="candidates are verified and measured on the hardware that will serve them",
            remedy=f"plan, apply or render on a machine that has them{fewer}; "
            "what `mlo render` writes there runs on every machine with such GPUs",
        )
    )


def cuda_notes(spec: ModelDeployment, here: CudaHere | None) -> list[str]:
    """What a reviewer of a plan with GPUs should know, a sentence each."""
    if here is None:
        return []
    devices = spec.hardware.devices
    notes = [f"proven and measured on {', '.join(here.devices.names[:devices])}; other GPUs have other latencies"]
    if spec.hardware.cpus < devices:
        notes.append(
            f"`hardware.cpus: {spec.hardware.cpus:g}` feeds {devices} GPUs, each from its own thread; set it to {devices} or more"
        )
    if spec.optimize_for == "cost":
        notes.append(
            "`optimize_for: cost` counts CPU time, which is the smaller part of the cost of a replica with a GPU"
        )
    if spec.serving.replicas.max > spec.serving.replicas.min:
        notes.append("the rendered autoscaler scales on CPU use, which says little about how busy a GPU is")
    return notes
