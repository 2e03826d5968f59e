"""Whether this machine has what a spec asks for: the devices for the whole plan, the packages for each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.machine.cuda_devices import CudaDevices, cuda_devices
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment

__all__ = ["CudaHere", "accelerator", "cuda_here", "cuda_notes", "serving_devices"]


@dataclass(frozen=True, slots=True)
class CudaHere:
    """The devices of this machine, enough of them; and where its packages are looked for (None: where Python looks)."""

    devices: CudaDevices
    path: Sequence[str] | None


def cuda_here(loaded: LoadedSpec, root: Path = Path("/"), path: Sequence[str] | None = None) -> CudaHere | None:
    """What there is for a spec that asks for CUDA; None for one that does not.

    Args:
        loaded: the spec.
        root: what `proc`, `dev` and `sys` lie below.
        path: where packages are looked for; None is where Python looks.

    Raises:
        SpecInvalid: E205, there are fewer devices than the spec asks for.
    """
    wanted = loaded.spec.hardware.devices
    if not wanted:
        return None
    devices = cuda_devices(root)
    lacking = devices.lacking(wanted)
    if lacking is None:
        return CudaHere(devices, path)
    fewer = f", or ask for {len(devices.names)} with `hardware.count`" if devices.names else ""
    raise SpecInvalid(
        Diagnostic(
            "E205",
            f"the spec asks for {'a GPU' if wanted == 1 else f'{wanted} GPUs'}, which this machine lacks",
            loaded.span(("hardware", "count" if devices.names else "accelerator")),
            label=lacking,
            cause="what is deployed is proven and measured on what it will run on",
            remedy=f"plan, apply or render on a machine that has them{fewer}; "
            "what `mlo render` writes there runs on every machine with such GPUs",
        )
    )


def accelerator(spec: ModelDeployment) -> dict[str, str]:
    """The parameters of a step that runs a model: nothing where that is the CPU, whose keys stay as they are."""
    return {"accelerator": spec.hardware.accelerator} if spec.hardware.devices else {}


def serving_devices(spec: ModelDeployment) -> dict[str, int | bool]:
    """The same of what is served: how many devices, and how they are used."""
    devices = spec.hardware.devices
    return {"devices": devices, "cuda_graphs": spec.serving.cuda_graphs} if devices else {}


def cuda_notes(spec: ModelDeployment, here: CudaHere | None) -> list[str]:
    """What a reviewer of a plan with GPUs should know, a sentence each."""
    if here is None:
        return []
    devices = spec.hardware.devices
    notes = [f"proven and measured on {', '.join(here.devices.names[:devices])}; other GPUs have other latencies"]
    if spec.hardware.cpus < devices:
        notes.append(
            f"`hardware.cpus: {spec.hardware.cpus:g}` feeds {devices} GPUs, each with a thread of its own: give it {devices}"
        )
    if spec.optimize_for == "cost":
        notes.append("`optimize_for: cost` counts CPU time, which is the smaller part of what a GPU's replica costs")
    if spec.serving.replicas.max > spec.serving.replicas.min:
        notes.append("the rendered autoscaler goes by CPU use, which tells little of how busy a GPU is")
    return notes
