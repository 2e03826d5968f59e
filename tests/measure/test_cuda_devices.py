"""Finding GPUs in the files that NVIDIA's driver shows."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from orchestrator.machine.cuda_devices import CudaDevices, cuda_devices
from tests.measure.fake_gpus import H100, write_gpus

A10 = "NVIDIA A10G"


def found(root: Path, visible: str | None = None) -> CudaDevices:
    return cuda_devices(root, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})


def test_a_machine_without_any_says_so(tmp_path: Path) -> None:
    devices = found(tmp_path)
    assert devices.names == ()
    assert devices.lacking(1) == "this machine has no NVIDIA GPU"


def test_devices_are_named_with_the_drivers_version(tmp_path: Path) -> None:
    devices = found(write_gpus(tmp_path, (H100, A10)))
    assert (devices.driver, devices.names) == ("550.54.14", (H100, A10))
    assert devices.lacking(2) is None
    assert devices.lacking(3) == "this machine has 2 NVIDIA GPUs"
    assert devices.as_json() == {"driver": "550.54.14", "names": [H100, A10]}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n", "535.129.03"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65  Release Build\n", "580.65"),
    ],
)
def test_both_kinds_of_driver_state_their_version(tmp_path: Path, text: str, version: str) -> None:
    assert found(write_gpus(tmp_path, driver=text)).driver == version


def test_a_card_without_a_driver_is_distinguished_from_no_card(tmp_path: Path) -> None:
    devices = found(write_gpus(tmp_path, (H100, H100), driver=""))
    assert devices.names == ()
    assert devices.lacking(1) == "no NVIDIA driver is loaded for the 2 NVIDIA GPUs of this machine"


def test_a_container_only_has_its_own_devices(tmp_path: Path) -> None:
    devices = found(write_gpus(tmp_path, (H100, H100, A10), given=[2]))
    assert devices.names == (A10,)
    assert devices.lacking(2) == (
        "the driver has 3 NVIDIA GPUs, and /dev has files of 1: this container was not given more"
    )


def test_a_sandbox_that_hides_the_drivers_list_still_has_device_files(tmp_path: Path) -> None:
    write_gpus(tmp_path, (H100, H100))
    shutil.rmtree(tmp_path / "proc")
    devices = found(tmp_path)
    assert (devices.driver, devices.names) == ("unknown", ("NVIDIA GPU", "NVIDIA GPU"))


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1", (A10,)),
        ("1,0", (A10, H100)),
        ("0,7,1", (H100,)),
        ("", ()),
        ("-1", ()),
        ("GPU-1fb3e0f6", (A10,)),
        ("GPU-", ()),
        ("MIG-2b6c", (f"{H100} (MIG-2b6c)",)),
    ],
)
def test_cuda_visible_devices_selects_devices_as_in_cuda(tmp_path: Path, visible: str, names: tuple[str, ...]) -> None:
    devices = found(write_gpus(tmp_path, (H100, A10)), visible)
    assert devices.names == names
    if len(names) < 2:
        assert devices.lacking(2) == f"CUDA_VISIBLE_DEVICES={visible!r} leaves {len(names)} of 2 NVIDIA GPUs"


def test_another_vendors_card_is_not_counted(tmp_path: Path) -> None:
    bus = write_gpus(tmp_path, driver="") / "sys/bus/pci/devices/0000:00:00.0"
    (bus / "vendor").write_text("0x1002\n")
    assert found(tmp_path).on_bus == 0


def test_detecting_devices_takes_milliseconds(tmp_path: Path) -> None:
    write_gpus(tmp_path, [H100] * 16)
    began = time.perf_counter()
    assert len(found(tmp_path).names) == 16
    assert time.perf_counter() - began < 0.1
