"""The files that NVIDIA's driver shows on a machine with some devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

H100 = "NVIDIA H100 80GB HBM3"
_INFORMATION = """\
Model: \t\t {name}
IRQ:   \t\t {irq}
GPU UUID: \t GPU-{minor}fb3e0f6-6d0b-4f2e-8c3b-2b6c2c6a9f00
Video BIOS: \t 96.00.74.00.01
Bus Type: \t PCIe
DMA Size: \t 52 bits
Bus Location: \t 0000:{minor:02x}:00.0
Device Minor: \t {minor}
GPU Excluded:\t No
"""
_OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build  (dvs-builder@U16)\nGCC version:\n"


def write_gpus(
    root: Path, names: Sequence[str] = (H100,), *, driver: str = _OPEN, given: Sequence[int] = range(16)
) -> Path:
    """Lay the files below `root`, as a machine with these devices has them.

    Args:
        root: a folder of one's own.
        names: the devices, in the order of the bus.
        driver: what the driver says of its version; empty where none is loaded.
        given: the minor numbers that have a file in `/dev`.
    """
    for minor, name in enumerate(names):
        slot = f"0000:{minor:02x}:00.0"
        bus = root / "sys/bus/pci/devices" / slot
        bus.mkdir(parents=True)
        (bus / "vendor").write_text("0x10de\n")
        (bus / "class").write_text("0x030200\n")
        if driver:
            folder = root / "proc/driver/nvidia/gpus" / slot
            folder.mkdir(parents=True)
            (folder / "information").write_text(_INFORMATION.format(name=name, minor=minor, irq=100 + minor))
            (root / "dev").mkdir(exist_ok=True)
            if minor in given:
                (root / f"dev/nvidia{minor}").touch()
    if driver:
        (root / "proc/driver/nvidia/version").write_text(driver)
        for node in ("nvidiactl", "nvidia-uvm", "nvidia-caps"):
            (root / "dev" / node).touch()
    return root
