"""What messages show of a spec's values and lines where a URL has a password or a token: neither of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import SpecInvalid
from orchestrator.spec.redacted import redacted
from tests.spec.conftest import BASE, Load, Shown

GIT = "deploy: {target: gitops, path: git, argo: {repository: VALUE}}\n"
FLUX = "deploy: {target: gitops, path: git, flux: {repository: VALUE}}\n"
REGISTRY = "image: {registry: VALUE}\n"
BASE_IMAGE = "image:\n  base: VALUE\n"
INDEX = "image: {build: {pip_index: VALUE}}\n"
TRACES = "serving: {traces: {endpoint: VALUE}}\n"
ORIGIN = "serving: {cors: {origins: [VALUE]}}\n"


def _secretless(load: Load, text: str) -> str:
    with pytest.raises(SpecInvalid) as caught:
        load(text)
    shown = json.dumps([each.as_json() for each in caught.value.diagnostics])
    assert "hunter2" not in shown
    return shown


@pytest.mark.parametrize("section", [GIT, FLUX, REGISTRY, BASE_IMAGE, INDEX, TRACES, ORIGIN])
@pytest.mark.parametrize(
    "value",
    [
        "https://mlo:hunter2@git.example.com/team/digits.git",
        "https://glpat-hunter2@git.example.com/team",
        "'https://mlo:hunter2 hunter2@git.example.com'",
        '"https://mlo:hunter2/hunter2@git.example.com"',
        "https://git.example.com/team?private_token=hunter2",
        "mlo:hunter2@git.example.com/team!",
        "glpat-0123456789hunter2@git.example.com/team!",
    ],
)
def test_a_refused_url_is_shown_without_its_password_or_token(load: Load, section: str, value: str) -> None:
    shown = _secretless(load, BASE + section.replace("VALUE", value))
    assert "git.example.com" in shown, "what is wrong is still to be seen"


@pytest.mark.parametrize(
    "text",
    [
        BASE + "deploy: {target: gitops, pth: git, argo: {repository: https://mlo:hunter2@git.example.com/digits}}\n",
        BASE + "image: {registry: https://mlo:hunter2@example.com, registry: example.com}\n",
        BASE + "image: {registry: 'https://mlo:hunter2@example.com}\n",
        BASE + "image: {registry: [https://mlo:hunter2@example.com]}\n",
        BASE + "image: {https://mlo:hunter2@example.com: 1}\n",
        BASE + "optimize: {precisions: https://mlo:hunter2@example.com}\n",
        BASE + f"image: {{registry: https://hunter2{'x' * 1000}@example.com}}\n",
        BASE.replace("digits.safetensors", "https://bucket.example.com/digits?X-Amz-Signature=hunter2"),
        BASE.replace("digits.safetensors", "https://mlo:hunter2@models.example.com/digits"),
    ],
)
def test_nor_is_its_line_shown_with_it_where_something_else_is_wrong(load: Load, text: str) -> None:
    _secretless(load, text)


def test_nor_does_a_platform_file_show_it(load: Load, folder: Path) -> None:
    platform = "apiVersion: mlo/v1\nkind: Platform\nbounds: {registries: VALUE}\n"
    for value in (
        "https://mlo:hunter2@example.com",
        "https://a:hunter2@example.com",
        "[https://a:hunter2@example.com]",
    ):
        (folder / "mlo-platform.yaml").write_text(platform.replace("VALUE", value))
        _secretless(load, BASE)


def test_the_rest_of_the_line_stays_where_it_is(shown: Shown) -> None:
    text = shown(BASE + INDEX.replace("VALUE", "https://mlo:hunter2@pypi.example.com/simple"))
    assert text.startswith(
        "error[E105]: `https://***********@pypi.example.com/simple` is not a valid value for `pip_index`\n"
        "  --> spec.yaml:15:28\n"
        "   |\n"
        "15 | image: {build: {pip_index: https://***********@pypi.example.com/simple}}\n"
        "   |                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "git@git.example.com:team/deployments.git",
        "ssh://git@git.example.com:2222/team/deployments.git",
        "registry.example.com:5000/team/python:3.11-slim@sha256:0123456789abcdef",
        "https://registry.example.com/team/python:3.11-slim@sha256:0123456789abcdef",
        "owner: team@example.com, why?",
        "see https://example.com/docs",
    ],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert redacted(text) == text
