"""The CUDA devices of this machine, read from files within a millisecond, without a framework or `nvidia-smi`.

NVIDIA's kernel driver lists its devices in `/proc/driver/nvidia`. A process accesses a device through a file in `/dev`, which a
container only has for its own devices. Only for Linux with PCI: WSL and Jetson have no such files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CudaDevices", "cuda_devices"]

_NVIDIA = "0x10de"
_DISPLAY = "0x03"
_VERSION = re.compile(r"\b[0-9]{3,}\.[0-9]+(\.[0-9]+)?\b")
_UNNAMED = "NVIDIA GPU"


@dataclass(frozen=True, slots=True)
class CudaDevices:
    """The CUDA devices, and what is missing if there are none.

    Attributes:
        driver: the kernel driver's version, or "unknown" if it is not stated; None if no driver is loaded.
        names: of the devices that this process may use, such as `NVIDIA H100 80GB HBM3`, by bus id.
        driven: the number of devices that the driver lists.
        reachable: the number of those that have a file in `/dev`.
        on_bus: the number of NVIDIA display or compute controllers on the PCI bus.
        visible: `CUDA_VISIBLE_DEVICES`, which selects from the reachable devices; None if it is not set.
    """

    driver: str | None
    names: tuple[str, ...]
    driven: int
    reachable: int
    on_bus: int
    visible: str | None

    def lacking(self, count: int) -> str | None:
        """Why there are fewer than `count` devices, as a clause for a message; None if there are enough."""
        if len(self.names) >= count:
            return None
        if self.driver is None and not self.on_bus:
            return "this machine has no NVIDIA GPU"
        if self.driver is None:
            return f"no NVIDIA driver is loaded for the {_gpus(self.on_bus)} of this machine"
        if self.visible is not None and len(self.names) < self.reachable:
            return f"CUDA_VISIBLE_DEVICES={self.visible!r} leaves {len(self.names)} of {_gpus(self.reachable)}"
        if self.reachable < self.driven:
            return (
                f"the driver has {_gpus(self.driven)}, and /dev has files of {self.reachable}: "
                "this container was not given more"
            )
        return f"this machine has {_gpus(len(self.names))}"

    @property
    def choice(self) -> str:
        """The value of `CUDA_VISIBLE_DEVICES`, or a value that names every device that this process may use."""
        return ",".join(map(str, range(len(self.names)))) if self.visible is None else self.visible

    def as_json(self) -> dict[str, object]:
        """Plain JSON for the fingerprint, with what measurements depend on."""
        return {"driver": self.driver, "names": list(self.names)}


def _gpus(count: int) -> str:
    return "1 NVIDIA GPU" if count == 1 else f"{count} NVIDIA GPUs"


def cuda_devices(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> CudaDevices:
    """Read the devices from the kernel's files.

    Args:
        root: the folder with `proc`, `dev` and `sys`.
        environment: may contain `CUDA_VISIBLE_DEVICES`.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    known = _known(root / "proc/driver/nvidia/gpus")
    files = sorted(int(path.name.removeprefix("nvidia")) for path in root.glob("dev/nvidia[0-9]*") if _numbered(path))
    reachable = [(name, uuid) for minor, name, uuid in known if minor in files]
    if not known:  # a sandbox that hides the list
        reachable = [(_UNNAMED, "")] * len(files)
    return CudaDevices(
        driver=_driver(root),
        names=tuple(_chosen(reachable, visible)),
        driven=len(known) or len(files),
        reachable=len(reachable),
        on_bus=_on_bus(root / "sys/bus/pci/devices"),
        visible=visible,
    )


def _numbered(path: Path) -> bool:
    return path.name.removeprefix("nvidia").isdecimal()


def _driver(root: Path) -> str | None:
    for file in ("proc/driver/nvidia/version", "sys/module/nvidia/version"):
        if found := _VERSION.search(_text(root / file)):
            return found[0]
    return "unknown" if (root / "dev/nvidiactl").exists() else None


def _known(folder: Path) -> list[tuple[int, str, str]]:
    """Minor number, name and UUID of every device that the driver lists, by bus id."""
    devices = []
    for path in sorted(folder.glob("*/information")):
        facts = {}
        for line in _text(path).splitlines():
            name, _, value = line.partition(":")
            facts[name.strip()] = value.strip()
        minor = facts.get("Device Minor", "")
        if minor.isdecimal():
            devices.append((int(minor), facts.get("Model") or _UNNAMED, facts.get("GPU UUID", "")))
    return devices


def _chosen(devices: list[tuple[str, str]], visible: str | None) -> list[str]:
    """The names of the devices that `CUDA_VISIBLE_DEVICES` selects by number or UUID; the first invalid entry ends the list.

    Source: CUDA C++ Programming Guide, "CUDA Environment Variables".
    """
    if visible is None:
        return [name for name, _ in devices]
    chosen = []
    for entry in visible.split(","):
        word = entry.strip()
        if word.startswith("MIG-") and devices:
            chosen.append(f"{devices[0][0]} ({word})")
            continue
        if word.isdecimal() and int(word) < len(devices):
            found = devices[int(word)]
        else:
            matching = [device for device in devices if word.startswith("GPU-") and device[1].startswith(word)]
            if len(matching) != 1:
                break
            found = matching[0]
        chosen.append(found[0])
    return chosen


def _on_bus(folder: Path) -> int:
    return sum(
        1
        for device in folder.glob("*")
        if _text(device / "vendor").strip() == _NVIDIA and _text(device / "class").startswith(_DISPLAY)
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # not there: no driver, no bus, or a sandbox that hides it
