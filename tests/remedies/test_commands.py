"""A command that is refused: doing what its message says, by file or by command line, makes that refusal go away."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from orchestrator.cli.build import require_registry
from orchestrator.cli.main import cli
from orchestrator.cli.options import open_store
from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.apply import plan_from_file
from orchestrator.engine.planning import make_plan
from orchestrator.errors import MloError, StalePlan, UsageError
from orchestrator.plan.plan_file import read_plan_file
from orchestrator.spec.catalogue import codes
from orchestrator.store.home import Home
from orchestrator.store.state import Deployment, PlacementRecord, StateFile
from orchestrator.targets.local.placement import LocalPlacement
from tests.remedies.spec_cases import advice

DIGITS = Path(__file__).resolve().parents[2] / "specs" / "digits"


@dataclass(frozen=True)
class CommandCase:
    """One refusal.

    Attributes:
        code: of it.
        command: that is refused, after `mlo`.
        told: a part of what is said to do.
        follow: does so in the working folder; returns the command to run then, or None for the same again.
        fault: makes the situation.
    """

    code: str
    command: str
    told: str
    follow: Callable[[Diagnostic], str | None]
    fault: Callable[[], object] = lambda: None


def _run(command: str) -> Sequence[Diagnostic]:
    """The refusals of `mlo COMMAND`; none if it does what it is asked."""
    try:
        cli.main(shlex.split(command), prog_name="mlo", standalone_mode=False)
    except MloError as error:
        return error.diagnostics
    except click.UsageError as error:
        return (Diagnostic("E200", error.format_message(), remedy="run the command with --help"),)
    return ()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the digits example, in which commands run, with a store of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("digits.yaml", "digits.npz", "digits.safetensors", "digits_model.py"):
        shutil.copy(DIGITS / name, folder / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


# What makes the situations. All of it is in the working folder, or in the store beside it.


def _spec(old: str, new: str) -> Callable[[], object]:
    def change(path: Path = Path("digits.yaml")) -> None:
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")

    return change


def _samples(change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Callable[[], object]:
    def save() -> None:
        with np.load("digits.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        np.savez("digits.npz", **change(arrays))

    return save


def _deployed() -> None:
    home = Home(Path("../home"))
    home.prepare()
    placement = PlacementRecord(target=LocalPlacement.TARGET, version=LocalPlacement.VERSION, settings={})
    texts = ("backend", "variant", "spec_file", "spec_digest", "decision_digest", "model_digest", "rendered_digest")
    empty: dict[str, Any] = dict.fromkeys(texts, "")
    deployment = Deployment(
        name="digits",
        placement=placement,
        revision=1,
        highest=1,
        endpoint="http://127.0.0.1:20001",
        **empty,
    )
    StateFile(home).update(lambda state: state.with_deployment(deployment))


def _state(change: Callable[[str], str]) -> Callable[[], object]:
    def write() -> None:
        _deployed()
        path = next(Path("../home").rglob("state.json"))
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return write


def _saved_plan(**changed: object) -> Callable[[], object]:
    def save() -> None:
        assert _run("plan digits.yaml --out plan.json") == ()
        document = json.loads(Path("plan.json").read_text(encoding="utf-8"))
        Path("plan.json").write_text(json.dumps({**document, **changed}), encoding="utf-8")

    return save


def _onnx_on_torchserve() -> None:
    _spec("precisions: [fp32, bf16, int8]", "formats: [onnx]")()
    _spec("deploy: {target: local}", "serving: {backend: torchserve}\ndeploy: {target: local}")()


def _other_layout() -> None:
    home = Home(Path("../home"))
    home.prepare()
    home.layout_file.write_text("layout 0\n", encoding="utf-8")


# What a reader does.


def _command(found: Diagnostic) -> str:
    """The command that the help names, in backticks or after a colon."""
    match = re.search(r"`mlo ([^`]+)`|mlo ([a-z]+ [^;,`]+)$", found.remedy)
    assert match, found.remedy
    return match[1] or match[2]


def _said(pattern: str, found: Diagnostic) -> str:
    match = re.search(pattern, advice(found))
    assert match, advice(found)
    return match[1]


def _then(command: str, did: Callable[[], object]) -> Callable[[Diagnostic], str]:
    def follow(_: Diagnostic) -> str:
        did()
        return command

    return follow


def _after(did: Callable[[], object]) -> Callable[[Diagnostic], None]:
    def follow(_: Diagnostic) -> None:
        did()

    return follow


def _restored(name: str) -> Callable[[Diagnostic], None]:
    return _after(lambda: shutil.copy(DIGITS / name, name))


def _pinned(found: Diagnostic) -> None:
    assert "write the new sha256" in found.remedy
    digest = re.search(r"is ([0-9a-f]{64})", found.cause)
    assert digest, found.cause
    _spec("0" * 64, digest[1])()


def _plan_and_show(found: Diagnostic) -> str:
    made = _command(found).replace("SPEC", "digits.yaml").replace("FILE", "new.json")
    assert _run(made) == ()
    return "show new.json"


def _moved_state(found: Diagnostic) -> None:
    assert "move the file away" in found.remedy
    path = Path(re.findall(r"(/\S+state\.json)", found.message)[0])
    path.rename(path.with_suffix(".damaged"))


def _own_home(found: Diagnostic) -> None:
    assert "set MLO_HOME to" in found.remedy
    os.environ["MLO_HOME"] = str(Path("../another").resolve())  # the fixture restores it


def _twin(name: str) -> Callable[[], None]:
    """A second spec beside the first, of this name."""
    return lambda: _write("twin.yaml", Path("digits.yaml").read_text().replace("  name: digits", f"  name: {name}"))


def _both(deploy: str) -> Callable[[], None]:
    """Two specs, of two names, with these keys under `deploy:`."""

    def write() -> None:
        _spec("deploy: {target: local}", f"deploy: {deploy}")()
        _twin("twin")()

    return write


def _elsewhere(place: str, other: str) -> Callable[[Diagnostic], None]:
    return _after(lambda: _write("twin.yaml", Path("twin.yaml").read_text().replace(place, other)))


def _write(file: str, text: str) -> None:
    Path(file).write_text(text)


_WRONG_PIN = _spec("weights: digits.safetensors ", f"weights: digits.safetensors\n    sha256: {'0' * 64} ")


def _in_a_model() -> None:
    """A model's folder that holds the store, so that `mlo init` ends before it reads anything (E146)."""
    Path("ranker").mkdir()
    Path("ranker/saved_model.pb").write_bytes(b"\x08\x01\x12\x02")
    Path("ranker.yaml").touch()
    os.environ["MLO_HOME"] = str(Path("ranker/.mlo").resolve())  # the fixture restores it


def _made_by_hand() -> None:
    _in_a_model()
    Path("ranker.yaml").unlink()
    np.savez("ranker-samples.npz", x=np.zeros(3))


CASES = [
    CommandCase("E100", "plan digit.yaml", "digits.yaml", lambda found: f"plan {_said(r'(digits[.]yaml)', found)}"),
    CommandCase("E199", "explain E198", "did you mean", lambda found: f"explain {_said(r'did you mean (E[0-9]+)', found)}"),
    CommandCase("E200", "plan --bogus", "--help", lambda _: "plan --help"),
    CommandCase("E201", "plan digits.yaml", "set `serving.backend: auto`", _after(_spec("backend: torchserve", "backend: auto")), _onnx_on_torchserve),
    CommandCase("E204", "plan digits.yaml", "write the new sha256", _pinned, _WRONG_PIN),
    CommandCase("E206", "apply digits.yaml twin.yaml", "give one of them another `metadata.name`", _after(_twin("twin")), _twin("digits")),
    CommandCase("E206", "apply digits.yaml digits.yaml", "or leave it out", lambda _: "apply digits.yaml"),
    CommandCase("E206", "apply digits.yaml twin.yaml", "give one of them another `deploy.path`", _elsewhere("out/../shelf", "other"), _both("{target: folder, path: out/../shelf}")),
    CommandCase("E206", "apply digits.yaml twin.yaml", "give one of them another `deploy.port`", _elsewhere("18471", "18473"), _both("{target: local, port: 18471}")),
    CommandCase("E210", "show digits.npz", "`mlo plan SPEC --out FILE`", _plan_and_show),
    CommandCase("E211", "show plan.json", "`mlo plan SPEC --out FILE`", _plan_and_show, _saved_plan(format=0)),
    CommandCase("E213", "plan digits.yaml --replace convert.onx", "did you mean", lambda found: f"plan digits.yaml --replace {_said(r'did you mean `(.+?)`', found)}"),
    CommandCase("E214", "apply plan.json --replace convert.onnx", "or plan again", lambda found: _command(found).replace("SPEC", "digits.yaml"), _saved_plan()),
    CommandCase("E215", "destroy digits", "add --yes", lambda found: f"destroy digits {_said(r'add (--yes)', found)}", _deployed),
    CommandCase("E217", "explain digits.yaml convert.onx", "did you mean", lambda found: f"explain digits.yaml {_said(r'did you mean `(.+?)`', found)}"),
    CommandCase("E145", "init ranker", "with --output", lambda _: "init ranker --output other.yaml", _in_a_model),
    CommandCase("E145", "init ranker", "overwrite it with --force", lambda found: f"init ranker {_said(r'(--force)', found)}", _in_a_model),
    CommandCase("E145", "init ranker --output new/ranker.yaml", "create it", _after(lambda: Path("new").mkdir()), _in_a_model),
    CommandCase("E145", "init ranker", "use them with --samples", lambda found: f"init ranker {_said(r'(--samples [^,]+),', found)}", _made_by_hand),
    CommandCase("E145", "init ranker", "or choose another --name", lambda _: "init ranker --name other", _made_by_hand),
    CommandCase("E340", "plan digits.yaml", "numpy.savez", _restored("digits.npz"), lambda: Path("digits.npz").write_bytes(b"text")),
    CommandCase("E341", "plan digits.yaml", "rename `images`", _after(_samples(lambda a: {**a, "image": a["images"]})), _samples(lambda a: {"images": a["image"]})),
    CommandCase("E342", "plan digits.yaml", "save it as float32", _after(_samples(lambda a: {"image": a["image"].astype(np.float32)})), _samples(lambda a: {"image": a["image"].astype(str)})),
    CommandCase("E343", "plan digits.yaml", "correct the samples", _restored("digits.npz"), _samples(lambda a: {"image": a["image"][:, :, :7]})),
    CommandCase("E344", "plan digits.yaml", "give at least one", _after(_samples(lambda a: {"image": np.zeros((1, 1, 8, 8), np.float32)})), _samples(lambda a: {"image": a["image"][:0]})),
    CommandCase("E345", "plan digits.yaml", "or leave them out", _after(_samples(lambda a: {"image": a["image"]})), _samples(lambda a: {**a, "labels": a["labels"][:3]})),
    CommandCase("E602", "status digit", "did you mean `digits`?", lambda found: f"status {_said(r'did you mean `(.+?)`', found)}", _deployed),
    CommandCase("E702", "plan digits.yaml", "set MLO_HOME to a folder", _own_home, lambda: os.environ.update(MLO_HOME="/proc/nothing")),
    CommandCase("E704", "status", "move the file away", _moved_state, _state(lambda text: text[:20])),
    CommandCase("E705", "status", "move the file away", _moved_state, _state(lambda text: re.sub(r'"format": \d+', '"format": 1', text))),
    CommandCase("E715", "plan digits.yaml", "set MLO_HOME to another folder", _own_home, _other_layout),
]  # fmt: skip


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("case", CASES, ids=[f"{case.code}-{case.command}" for case in CASES])
def test_following_the_help_makes_the_refusal_go_away(case: CommandCase) -> None:
    case.fault()
    before = _run(case.command)
    assert case.code in {each.code for each in before}, before
    found = next(each for each in before if each.code == case.code)
    assert case.told in advice(found)

    after = _run(case.follow(found) or case.command)

    assert case.code not in {each.code for each in after}, after


@pytest.mark.usefixtures("project")
def test_a_plan_that_is_stale_is_made_again_with_the_command_that_is_named() -> None:
    assert _run("plan digits.yaml --out plan.json") == ()
    _spec("p99_latency: 20ms", "p99_latency: 30ms")()

    def planned(file: str) -> object:
        """As `mlo apply FILE` begins."""
        (saved,) = read_plan_file(Path(file))
        return plan_from_file(Path(file), saved, open_store())

    with pytest.raises(StalePlan) as caught:
        planned("plan.json")
    (found,) = caught.value.diagnostics
    assert found.code == "E212"
    assert _run(_command(found).replace("SPEC", "digits.yaml").replace("FILE", "new.json")) == ()
    planned("new.json")


@pytest.mark.usefixtures("project")
def test_an_image_is_pushed_where_the_registry_that_is_added_says() -> None:
    def asked() -> None:
        """As `mlo push` begins."""
        require_registry(make_plan(Path("digits.yaml"), open_store()))

    with pytest.raises(UsageError) as caught:
        asked()
    (found,) = caught.value.diagnostics
    assert found.code == "E632"
    _spec("deploy: {target: local}", f"{_said(r'add `(image: .+?)`', found)}\ndeploy: {{target: local}}")()
    asked()


@pytest.mark.usefixtures("project")
def test_what_was_declined_is_done_with_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    _deployed()
    terminal = io.StringIO("n\n")
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    (declined,) = _run("destroy digits")
    assert declined.code == "E219"
    assert "`--yes` applies without asking" in codes()["E219"][1]
    assert _run("destroy digits --yes") == ()
