"""What a platform file sets for specs, and what environments change; where each value came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SpecInvalid
from orchestrator.spec.load import load_spec
from tests.spec.conftest import BASE, Load, Shown

PLATFORM = """\
apiVersion: mlo/v1
kind: Platform
metadata: {name: acme}
defaults:
  hardware: {cpus: 2, memory: 4Gi}
  image:
    registry: registry.acme.com/models
limits:
  cpus: 4
  memory: 8Gi
  replicas: 10
rules:
  registries: [registry.acme.com]
  base_images: [registry.acme.com/python]
  backends: [onnxruntime]
  source_kinds: [pytorch]
  formats: [onnx]
  required_labels: [team]
  required_gates: [min_cosine]
"""
GOOD = BASE.replace("name: digits\n", "name: digits\n  labels: {team: vision}\n") + (
    "verify: {min_cosine: 0.99}\nimage: {base: 'registry.acme.com/python:3.11'}\n"
)


@pytest.fixture
def platform(folder: Path) -> Path:
    file = folder / "mlo-platform.yaml"
    file.write_text(PLATFORM)
    return file


def test_the_spec_overrides_defaults_and_their_origin_can_be_explained(load: Load, platform: Path) -> None:
    loaded = load(GOOD + "hardware: {cpus: 3}\n")
    assert loaded.platform == platform
    assert (loaded.spec.hardware.cpus, loaded.spec.hardware.memory) == (3, 4 * 2**30)
    assert loaded.spec.image.registry == "registry.acme.com/models"
    assert str(loaded.origin("hardware.cpus")) == "spec line 18"
    assert str(loaded.origin("hardware.memory")) == "platform mlo-platform.yaml line 5"
    assert str(loaded.origin(("image", "registry"))) == "platform mlo-platform.yaml line 7"
    assert loaded.origin("optimize.time_budget") is None
    assert str(loaded.origin("verify.min_cosine.int8")) == "spec line 16"
    assert loaded.span(("hardware", "memory")).file == "mlo-platform.yaml"


def test_auto_means_what_the_platform_allows(load: Load, platform: Path) -> None:
    loaded = load(GOOD + "serving: {backend: auto}\n")
    assert loaded.spec.optimize.formats == ["onnx"]
    assert loaded.spec.serving.backend == "onnxruntime"
    assert str(loaded.origin("optimize.formats")) == "platform mlo-platform.yaml line 17"
    assert loaded.rules is not None
    assert loaded.rules.registries == ["registry.acme.com"]


def test_a_platform_is_found_upwards_or_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "team" / "digits").mkdir(parents=True)
    (folder / "mlo-platform.yaml").write_text(PLATFORM)
    spec = folder / "team" / "digits" / "spec.yaml"
    spec.write_text(GOOD)
    (spec.parent / "digits.safetensors").touch()
    assert load_spec(spec).platform == folder / "mlo-platform.yaml"
    other = tmp_path_factory.mktemp("platforms") / "other.yaml"
    other.write_text("apiVersion: mlo/v1\nkind: Platform\ndefaults: {hardware: {cpus: 7}}\n")
    loaded = load_spec(spec, platform=other)
    assert loaded.spec.hardware.cpus == 7
    assert str(loaded.origin("hardware.cpus")) == f"platform {other} line 3"


def test_violations_stand_at_the_specs_line_and_name_the_rule(shown: Shown, platform: Path) -> None:
    text = (
        BASE
        + "hardware: {cpus: 16}\nimage: {registry: docker.io/me, base: 'python:3.11'}\nserving: {backend: torchserve}\n"
    )
    assert shown(text) == (
        "error[E132]: the platform requires the label `team`\n"
        " --> spec.yaml:4:9\n"
        "  |\n"
        "4 |   name: digits\n"
        "  |         ^^^^^^\n"
        "  = help: add `labels: {team: ...}` under `metadata`\n"
        "  = platform: mlo-platform.yaml:18\n"
        "\n"
        "error[E132]: the platform requires the gate `min_cosine`\n"
        " --> spec.yaml:4:9\n"
        "  |\n"
        "4 |   name: digits\n"
        "  |         ^^^^^^\n"
        "  = help: add `verify: {min_cosine: ...}`\n"
        "  = platform: mlo-platform.yaml:19\n"
        "\n"
        "error[E131]: `hardware.cpus` is 16, but the platform allows at most 4\n"
        "  --> spec.yaml:15:18\n"
        "   |\n"
        "15 | hardware: {cpus: 16}\n"
        "   |                  ^^\n"
        "   = help: set it to 4 or less\n"
        "   = platform: mlo-platform.yaml:9\n"
        "\n"
        "error[E130]: the platform does not allow `docker.io/me`\n"
        "  --> spec.yaml:16:19\n"
        "   |\n"
        "16 | image: {registry: docker.io/me, base: 'python:3.11'}\n"
        "   |                   ^^^^^^^^^^^^\n"
        "   = help: allowed: registry.acme.com\n"
        "   = platform: mlo-platform.yaml:13\n"
        "\n"
        "error[E130]: the platform does not allow `python:3.11`\n"
        "  --> spec.yaml:16:39\n"
        "   |\n"
        "16 | image: {registry: docker.io/me, base: 'python:3.11'}\n"
        "   |                                       ^^^^^^^^^^^^^\n"
        "   = help: allowed: registry.acme.com/python\n"
        "   = platform: mlo-platform.yaml:14\n"
        "\n"
        "error[E130]: the platform does not allow `torchserve`\n"
        "  --> spec.yaml:17:20\n"
        "   |\n"
        "17 | serving: {backend: torchserve}\n"
        "   |                    ^^^^^^^^^^\n"
        "   = help: allowed: onnxruntime\n"
        "   = platform: mlo-platform.yaml:15"
    )


@pytest.mark.parametrize(
    ("base", "rule", "allowed"),
    [
        ("python", "python", True),
        ("python:3.11", "python", True),
        ("python@sha256:" + "0" * 64, "python", True),
        ("python:3.11", "python:3.11", True),
        ("python:3.11@sha256:" + "0" * 64, "python:3.11", True),
        ("python:3.12", "python:3.11", False),
        ("python:3.11-slim", "python:3.11", False),
        ("pythonx:3.11", "python", False),
        ("localhost:5000/python:3", "localhost:5000/python", True),
    ],
)
def test_a_base_image_rule_allows_what_it_does_not_restrict(
    load: Load, folder: Path, base: str, rule: str, allowed: bool
) -> None:
    (folder / "mlo-platform.yaml").write_text(
        f"apiVersion: mlo/v1\nkind: Platform\nrules: {{base_images: ['{rule}']}}\n"
    )
    text = f"{BASE}image: {{base: '{base}'}}\n"
    if allowed:
        assert load(text).spec.image.base == base
    else:
        with pytest.raises(SpecInvalid, match="does not allow"):
            load(text)


DEVICES = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits}
model: {source: {kind: keras, weights: digits.safetensors}}
optimize: {formats: [tflite]}
deploy: {target: folder, path: shelf}
"""


def with_rules(folder: Path, rules: str) -> None:
    (folder / "mlo-platform.yaml").write_text(f"apiVersion: mlo/v1\nkind: Platform\n{rules}\n")


def test_a_rule_says_where_a_release_may_go(load: Load, shown: Shown, folder: Path) -> None:
    with_rules(folder, "rules: {targets: [local]}")
    assert load(BASE).spec.deploy.target == "local"
    assert shown(BASE + "deploy: {target: folder, path: shelf}\n") == (
        "error[E130]: the platform does not allow `folder`\n"
        "  --> spec.yaml:15:18\n"
        "   |\n"
        "15 | deploy: {target: folder, path: shelf}\n"
        "   |                  ^^^^^^\n"
        "   = help: allowed: local\n"
        "   = platform: mlo-platform.yaml:3"
    )
    with_rules(folder, "rules: {targets: [folder]}")
    assert " --> spec.yaml:4:9\n" in shown(BASE), "what is left out is told at the deployment's name"


def test_a_base_image_is_only_required_if_an_image_may_be_built(load: Load, shown: Shown, folder: Path) -> None:
    with_rules(folder, "rules: {base_images: [python]}")
    assert load(DEVICES).spec.image.base is None
    for served in (DEVICES.replace("[tflite]", "[tflite, onnx]"), DEVICES.replace("[tflite]", "auto"), BASE):
        assert "error[E132]: the platform requires an approved base image" in shown(served)


def test_a_rule_may_only_allow_the_backend_without_a_server(load: Load, folder: Path) -> None:
    with_rules(folder, "rules: {backends: [litert]}")
    assert load(DEVICES).spec.serving.backend == "auto"


def test_keys_without_effect_for_devices_are_warned_about_at_their_line(load: Load, folder: Path) -> None:
    said = "serving: {batching: {max_size: 8}, replicas: {max: 2}}\nimage: {registry: example.com/a}\n"
    warnings = [each for each in load(DEVICES + said).warnings if each.code == "W104"]

    assert [each.message for each in warnings] == [
        "`serving.batching` has no effect here",
        "`serving.replicas` has no effect here",
        "`image.registry` has no effect here",
    ]
    assert [each.span.line for each in warnings if each.span is not None] == [7, 7, 8]
    assert not load(DEVICES.replace("[tflite]", "auto") + said).warnings
    with_rules(folder, "defaults: {image: {registry: example.com/a}}")
    assert not load(DEVICES).warnings, "what a platform gives to all specs is not this one's mistake"


def test_mistakes_in_a_platform_file_are_shown_in_it(shown: Shown, folder: Path) -> None:
    (folder / "mlo-platform.yaml").write_text(
        "apiVersion: mlo/v1\nkind: Platform\ndefaults: {hardware: {cpu: 1}, model: {}}\nlimits: {memory: big}\nrule: {}\n"
    )
    text = shown(BASE)
    assert "error[E101]: unknown key `cpu`\n --> mlo-platform.yaml:3:23" in text
    assert "error[E135]: `model` cannot be set in a platform's defaults\n --> mlo-platform.yaml:3:32" in text
    assert "error[E105]: `big` is not a valid value for `memory`\n --> mlo-platform.yaml:4:18" in text
    assert "error[E101]: unknown key `rule`\n --> mlo-platform.yaml:5:1" in text
    assert "did you mean `rules`?" in text


def test_a_platform_file_is_not_a_spec(folder: Path) -> None:
    (folder / "p.yaml").write_text(PLATFORM)
    with pytest.raises(SpecInvalid, match=r"p\.yaml is a platform file, not a spec"):
        load_spec("p.yaml")


ENVIRONMENTS = BASE + (
    "hardware: {cpus: 2, memory: 2Gi}\n"
    "environments:\n"
    "  staging: {hardware: {cpus: 1}}\n"
    "  prod:\n"
    "    hardware: {cpus: 8}\n"
    "    serving: {replicas: {max: 4}}\n"
    "    metadata: {labels: {stage: prod}}\n"
)


def test_an_environment_changes_the_named_values_only(load: Load) -> None:
    base, staging, prod = (load(ENVIRONMENTS, environment=name) for name in (None, "staging", "prod"))
    assert [each.spec.hardware.cpus for each in (base, staging, prod)] == [2, 1, 8]
    assert [each.spec.hardware.memory for each in (base, staging, prod)] == [2**31] * 3
    assert prod.spec.serving.replicas.max == 4
    assert prod.spec.metadata.labels == {"stage": "prod"}
    assert str(prod.origin("hardware.cpus")) == "environment prod line 19"
    assert str(prod.origin("hardware.memory")) == "spec line 15"
    assert prod.environment == "prod"
    assert len({base.digest, staging.digest, prod.digest}) == 3


def test_an_unknown_environment_suggests_the_known_ones(shown: Shown) -> None:
    text = shown(ENVIRONMENTS, environment="stagin")
    assert "error[E134]: the spec has no environment `stagin`" in text
    assert "did you mean `staging`?" in text
    assert "choose one of staging, prod" in text


def test_every_environment_is_checked_even_if_none_is_selected(shown: Shown) -> None:
    assert shown(ENVIRONMENTS.replace("cpus: 8", "cpu: 8")) == (
        "error[E101]: unknown key `cpu`\n"
        "  --> spec.yaml:19:16\n"
        "   |\n"
        "19 |     hardware: {cpu: 8}\n"
        "   |                ^^^ did you mean `cpus`?\n"
        "   = environment: prod"
    )


def test_an_environment_cannot_change_the_model(shown: Shown) -> None:
    text = shown(ENVIRONMENTS + "    model: {samples: digits.npz}\n    kind: Other\n")
    assert "error[E135]: `model` cannot be set in an environment" in text
    assert "error[E135]: `kind` cannot be set in an environment" in text


@pytest.mark.parametrize(
    "section", ["environments: 3", "environments: {a: 1}", "environments: {A_B: {}}", "environments:"]
)
def test_a_wrong_environments_section_is_refused(load: Load, section: str) -> None:
    with pytest.raises(SpecInvalid, match="environment"):
        load(f"{BASE}{section}\n")


def test_the_digest_is_of_the_effective_spec(load: Load) -> None:
    plain = load(BASE)
    reordered = load(
        "# a comment\n" + BASE.replace("{min: 1, max: 64}", "{max: 64, min: 1}") + "hardware: {cpus: 1000m}\n"
    )
    changed = load(BASE.replace("max: 64", "max: 32"))
    assert plain.digest == reordered.digest != changed.digest
    assert plain.document.text != reordered.document.text
