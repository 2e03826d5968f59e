"""What a spec may contain about accelerators, independent of the machine."""

from __future__ import annotations

import pytest

from orchestrator.errors import SpecInvalid
from tests.spec.conftest import BASE, Load, Shown

CUDA = "hardware: {accelerator: cuda, count: 2}\n"


def test_a_spec_asks_for_gpus_and_is_valid_everywhere(load: Load) -> None:
    spec = load(BASE + CUDA + "serving: {cuda_graphs: true}\n").spec
    assert (spec.hardware.accelerator, spec.hardware.count, spec.hardware.devices) == ("cuda", 2, 2)
    assert spec.serving.cuda_graphs


def test_without_a_request_there_are_none(load: Load) -> None:
    spec = load(BASE).spec
    assert (spec.hardware.accelerator, spec.hardware.devices, spec.serving.cuda_graphs) == ("none", 0, False)
    assert load(BASE + "hardware: {accelerator: cuda}\n").spec.hardware.devices == 1


def test_keys_for_gpus_are_refused_without_gpus(shown: Shown) -> None:
    assert shown(BASE + "hardware: {count: 2}\nserving: {cuda_graphs: true}\n") == (
        "error[E133]: `hardware.count` needs an accelerator\n"
        "  --> spec.yaml:15:19\n"
        "   |\n"
        "15 | hardware: {count: 2}\n"
        "   |                   ^ `hardware.accelerator` is none\n"
        "   = help: set `hardware: {accelerator: cuda}`, or remove this key\n"
        "\n"
        "error[E133]: `serving.cuda_graphs` needs an accelerator\n"
        "  --> spec.yaml:16:24\n"
        "   |\n"
        "16 | serving: {cuda_graphs: true}\n"
        "   |                        ^^^^ `hardware.accelerator` is none\n"
        "   = help: set `hardware: {accelerator: cuda}`, or remove this key"
    )


@pytest.mark.parametrize("wrong", ["accelerator: rocm", "accelerator: cuda, count: 0", "accelerator: cuda, count: 17"])
def test_other_accelerators_and_numbers_are_refused(load: Load, wrong: str) -> None:
    with pytest.raises(SpecInvalid):
        load(BASE + f"hardware: {{{wrong}}}\n")


def test_an_environment_may_have_none(load: Load) -> None:
    text = BASE + CUDA + "environments:\n  dev:\n    hardware: {accelerator: none, count: 1}\n"
    assert load(text, environment="dev").spec.hardware.devices == 0
    assert load(text).spec.hardware.devices == 2


@pytest.mark.parametrize(
    ("asked", "most", "message", "help_line"),
    [
        (
            "accelerator: cuda, count: 2",
            1,
            "`hardware.count` is 2, but the platform allows at most 1",
            "set it to 1 or less",
        ),
        ("accelerator: cuda", 0, "`hardware.accelerator` is cuda, but the platform allows at most 0", "remove it"),
    ],
)
def test_a_platform_limits_them(shown: Shown, load: Load, asked: str, most: int, message: str, help_line: str) -> None:
    platform = f"apiVersion: mlo/v1\nkind: Platform\nlimits: {{accelerators: {most}}}\n"
    load(BASE)
    (load(BASE).folder / "mlo-platform.yaml").write_text(platform)
    said = shown(BASE + f"hardware: {{{asked}}}\n")
    assert f"error[E131]: {message}" in said
    assert f"help: {help_line}" in said
    assert "platform: mlo-platform.yaml:3" in said
    assert load(BASE).spec.hardware.devices == 0
