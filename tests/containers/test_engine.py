"""The messages about a Docker Engine that responds, one that refuses, one that does not respond, and none."""

from __future__ import annotations

import gc
import hashlib
import json
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.containers.engine import EngineError, NoEngine, engine_version, image_ids
from tests.fake_engine import NO_ENGINE, FakeEngine, fake_engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with fake_engine() as running:
        monkeypatch.setenv("DOCKER_HOST", running.host)
        yield running


def test_it_says_its_version_and_its_images(engine: FakeEngine) -> None:
    engine.images = {"tensorflow/serving:2.20.0": "sha256:12ab"}
    assert engine_version() == "27.5"
    assert image_ids("tensorflow/serving") == {"tensorflow/serving:2.20.0": "sha256:12ab"}
    assert any("reference" in path or "tensorflow" in path for path in engine.asked), "no other images are listed"


def test_the_reason_of_a_refusal_is_shown(engine: FakeEngine) -> None:
    engine.refuses = "the daemon is shutting down"
    with pytest.raises(EngineError, match="the daemon is shutting down"):
        engine_version()


def test_one_that_does_not_respond_is_not_waited_for(engine: FakeEngine) -> None:
    engine.silent = True
    began = time.monotonic()
    with pytest.raises(EngineError, match="no answer within 1 s"):
        engine_version(1.0)
    assert time.monotonic() - began < 5


def test_what_an_engine_over_ssh_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://ann@lab.example.com")
    monkeypatch.setattr("orchestrator.containers.engine.find_spec", lambda _: None)
    with pytest.raises(
        EngineError, match=r"ssh://ann@lab\.example\.com needs one more package: pip install 'docker\[ssh\]'"
    ):
        engine_version()


def test_a_missing_engine_is_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
    with pytest.raises(NoEngine, match="there is no Docker Engine at unix:///nonexistent"):
        engine_version()


def test_a_stopped_engine_is_distinguished_from_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind("docker.sock")
    monkeypatch.setenv("DOCKER_HOST", "unix://docker.sock")
    gc.collect()  # what other tests left
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(EngineError, match=r"nothing listens at .*; start the Docker Engine") as caught:
            engine_version()
        assert not isinstance(caught.value, NoEngine)
        del caught
        gc.collect()
    assert not [str(each.message) for each in left], "no connection is left open"


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        (None, "the current Docker context `lab` does not exist or names no engine; .*`docker context ls`"),
        ("{", "the current Docker context `lab` cannot be read: .*`docker context ls`"),
        (
            '{"Name": "lab", "Metadata": {}, "Endpoints": {"docker": {"Host": ""}}}',
            "the current Docker context `lab` does not exist or names no engine; .*`docker context ls`",
        ),
    ],
    ids=["missing", "damaged", "without a host"],
)
def test_a_context_that_names_no_engine_is_not_replaced_by_another_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meta: str | None, why: str
) -> None:
    _current_context(tmp_path, monkeypatch, meta)
    with pytest.raises(EngineError, match=why):
        engine_version()


def test_the_engine_of_the_current_context_is_asked(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints = {"docker": {"Host": engine.host}}
    _current_context(tmp_path, monkeypatch, json.dumps({"Name": "lab", "Metadata": {}, "Endpoints": endpoints}))
    assert engine_version() == "27.5"


def _current_context(home: Path, monkeypatch: pytest.MonkeyPatch, meta: str | None) -> None:
    """Make `lab` the current Docker context, with this file of its own."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(home))
    folder = home / ".docker"
    folder.mkdir()
    (folder / "config.json").write_text('{"currentContext": "lab"}', encoding="utf-8")
    if meta is not None:
        file = folder / "contexts" / "meta" / hashlib.sha256(b"lab").hexdigest() / "meta.json"
        file.parent.mkdir(parents=True)
        file.write_text(meta, encoding="utf-8")
