"""SIGKILL at every named point: the next run ends with the same digests and repeats nothing that was done."""

from __future__ import annotations

import ast
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import orchestrator
from orchestrator.store.atomic import TEMPORARY_PREFIX
from orchestrator.store.crash_points import CRASH_POINTS
from orchestrator.store.gc import collect, sweep
from orchestrator.store.home import Home
from orchestrator.store.receipts import Receipts
from orchestrator.store.state import StateFile
from orchestrator.store.store import Store
from orchestrator.store.trees import TreeStore

pytestmark = pytest.mark.processes

Spawn = Callable[..., "subprocess.Popen[str]"]

# A run in small: two steps, each once; what an earlier spec left is collected; the deployment is recorded.
_RUN = """
import json, sys
from pathlib import Path
from orchestrator.store.digest import sha256_bytes
from orchestrator.store.gc import collect, sweep
from orchestrator.store.home import Home
from orchestrator.store.store import Store
from orchestrator.store.receipts import Receipt, Receipts
from orchestrator.store.state import Deployment, Intent, PlacementRecord, StateFile
from orchestrator.store.trees import TreeStore
from orchestrator.store.user_code import NO_USER_CODE

home, computed = Home(Path(sys.argv[1])), Path(sys.argv[2])
home.prepare()
sweep(Store.at(home))
trees, receipts, state = TreeStore(home), Receipts(home), StateFile(home)

def step(name, content):
    key = sha256_bytes(f"{name} {content}".encode())
    receipt = receipts.read(key)
    if receipt is not None and trees.verify(receipt.manifest) is None:
        receipts.remember("digits", name, key)
        return receipt.manifest.digest
    with Store.at(home).scratch_folder() as scratch:
        (scratch / "output" / "inner").mkdir(parents=True)
        (scratch / "output" / "inner" / name).write_text(content * 1000)
        (scratch / "output" / "facts.json").write_text("{}")
        with computed.open("a") as log:
            log.write(f"{key}\\n")
        manifest = trees.commit(scratch / "output")
        receipts.write(Receipt(
            key=key, step=name, kind=name, deployment="digits", outcome="done", parts={}, manifest=manifest,
            summary={}, error=None, found=NO_USER_CODE, seconds=1.0, peak_bytes=None, started="", version="0.1.0",
        ))
    return manifest.digest

here = PlacementRecord(target="local", version=1, settings={})

def deployment(digest):
    return Deployment(
        name="digits", placement=here, revision=1, highest=1, backend="", variant="", endpoint="", spec_file="",
        spec_digest="", decision_digest="", model_digest=digests["convert"], rendered_digest=digest,
    )

digests = {"convert": step("convert", "old")}
digests = {name: step(name, "new") for name in ("convert", "render")}
live = deployment(digests["render"])
state.update(lambda before: before.with_deployment(live.with_intent(Intent.now("deploy", 1, here))))
state.update(lambda before: before.with_deployment(live))
collect(Store.at(home))
print(json.dumps(digests, sort_keys=True))
"""

_WHERE = ("atomic", "tree", "receipt", "state", "gc")
_OF_THE_STORE = sorted(name for name in CRASH_POINTS if name.startswith(_WHERE))
# A point of one atomic write is passed by many: each visit is another file at another time.
_PLACES = [
    *(name for name in _OF_THE_STORE if not name.startswith("atomic.")),
    *(
        f"{name}#2"
        for name in ("tree.after-rename", "tree.before-fsync", "receipt.before-write", "receipt.after-write")
    ),
    "state.before-write#2",
    "state.after-write#2",
    *(f"{name}#{visit}" for name in _OF_THE_STORE if name.startswith("atomic.") for visit in (1, 4, 5, 8, 10)),
    *(f"atomic.after-fsync#{visit}" for visit in (2, 3, 6, 7, 9, 11, 12)),
]


def _run(spawn: Spawn, home: Home, log: Path, crash_at: str = "") -> tuple[int, str, str]:
    process = spawn(_RUN, home.root, log, env={"MLO_CRASH_AT": crash_at} if crash_at else None)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def _check_whole(home: Home) -> None:
    """What a killed run left: every receipt can be used, has its whole tree, and the state can be read."""
    receipts, trees = Receipts(home), TreeStore(home)
    for key in receipts.all_keys():
        receipt = receipts.read(key)
        assert receipt is not None, receipts.damage(key)
        assert receipt.manifest is not None
        assert trees.verify(receipt.manifest, deep=True) is None
    StateFile(home).read()


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """The digests of a run that is not killed; the first test fills it in."""
    return {}


@pytest.mark.parametrize("crash_at", _PLACES)
def test_a_killed_run_continues_where_it_was(
    tmp_path: Path, spawn: Spawn, expected: dict[str, str], crash_at: str
) -> None:
    if not expected:
        code, out, err = _run(spawn, Home(tmp_path / "calm"), tmp_path / "calm.log")
        assert code == 0, err
        expected.update(json.loads(out))
    home, log = Home(tmp_path / ".mlo"), tmp_path / "computed.log"

    code, _, err = _run(spawn, home, log, crash_at)
    assert code == -signal.SIGKILL, f"{crash_at} was not passed: {err}"
    _check_whole(home)
    done = set(Receipts(home).all_keys()) if home.receipts.is_dir() else set()
    before = log.read_text().split() if log.exists() else []

    code, out, err = _run(spawn, home, log)
    assert code == 0, err
    assert json.loads(out) == expected
    _check_whole(home)
    assert done.isdisjoint(log.read_text().split()[len(before) :]), "a finished step was computed again"

    assert sweep(Store.at(home)) == 0
    assert collect(Store.at(home)) == 0
    assert list(home.scratch.iterdir()) == []
    assert not list(home.root.rglob(f"{TEMPORARY_PREFIX}*"))
    assert sorted(TreeStore(home).digests()) == sorted(expected.values())


def _points_in_the_code() -> Iterator[str]:
    for file in Path(orchestrator.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "crash_point":
                (argument,) = node.args
                assert isinstance(argument, ast.Constant), f"{file}: a crash point's name must be written out"
                yield str(argument.value)


def test_the_list_of_crash_points_matches_the_code() -> None:
    found = list(_points_in_the_code())
    assert sorted(found) == sorted(CRASH_POINTS)
