"""The result of each model in a file of its own, and the table of all."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.artifacts.measurement import times_text
from orchestrator.machine.fingerprint import fingerprint
from orchestrator.machine.instructions import cpu_flags

__all__ = ["NEAR", "SHARE", "Result", "Side", "load_average", "read_all", "table"]

NEAR, SHARE = 1.05, 0.30


@dataclass(frozen=True)
class Side:
    """One of the two searches: its best candidate, the variants and candidates that it measured, and its seconds."""

    candidate: str
    variants: int
    measured: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """One model's result.

    Attributes:
        ratio: how many times as long the search's candidate takes as the best of the exhaustive search, in turns.
        low: of its confidence interval.
        high: of it; None with too few turns.
        load: how many processes wanted a CPU before, on average over a minute; nothing else should.
        date: when it ended.
    """

    model: str
    search: Side
    exhaustive: Side
    ratio: float
    low: float
    high: float | None
    load: float
    date: str
    processor: str
    instructions: str
    cpus: float
    python: str

    @classmethod
    def now(
        cls, model: str, search: Side, exhaustive: Side, times: tuple[float, float, float | None], load: float
    ) -> Result:
        """A result of this machine that was just measured; `times`: the ratio and its interval."""
        facts = fingerprint()
        ratio, low, high = times
        today = datetime.now(UTC).date().isoformat()
        return cls(
            model,
            search,
            exhaustive,
            round(ratio, 4),
            round(low, 4),
            None if high is None else round(high, 4),
            round(load, 2),
            today,
            facts["processor"],
            _instructions(),
            facts["cpus"],
            platform.python_version(),
        )

    @property
    def share(self) -> float:
        """Of the exhaustive search's time."""
        return self.search.seconds / self.exhaustive.seconds

    @property
    def kept(self) -> bool:
        """Whether both limits are kept."""
        return self.ratio <= NEAR and self.share <= SHARE

    def write(self, folder: Path) -> None:
        """Keep it in the folder, in place of an earlier one of this model."""
        folder.mkdir(exist_ok=True)
        (folder / f"{self.model}.json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_all(folder: Path, order: Sequence[str]) -> list[Result]:
    """The kept results of these models, in this order; models without one are left out."""
    found = []
    for name in order:
        if (path := folder / f"{name}.json").is_file():
            content = json.loads(path.read_bytes())
            search, every = Side(**content.pop("search")), Side(**content.pop("exhaustive"))
            found.append(Result(search=search, exhaustive=every, **content))
    return found


def table(results: Sequence[Result], missing: Sequence[str] = ()) -> str:
    """The results in Markdown, each with its date and CPU; `missing`: models that have none yet."""
    lines = [
        "| model | the search's best | variants | measured | time | the best of all | variants | measured | time | result | share | kept |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        one, other = each.search, each.exhaustive
        between = "" if each.high is None else f" ({times_text(each.low)} to {times_text(each.high)})"
        lines.append(
            f"| {each.model} | {one.candidate} | {one.variants} | {one.measured} | {_minutes(one.seconds)} | {other.candidate} | "
            f"{other.variants} | {other.measured} | {_minutes(other.seconds)} | {times_text(each.ratio)} times{between}, at most "
            f"{NEAR} | {each.share:.0%}, at most {SHARE:.0%} | {'yes' if each.kept else '**no**'} |"
        )
    lines += [f"| {name} | not measured yet |{' |' * 10}" for name in missing]
    lines += ["", "| model | measured on | with |", "|---|---|---|"]
    lines += [
        f"| {each.model} | {each.date} | {each.processor}, {each.cpus:g} CPUs ({each.instructions}), Python {each.python}, load "
        f"average {each.load:.1f} before |"
        for each in results
    ]
    return "\n".join(lines) + "\n"


def load_average() -> float:
    """How many processes wanted a CPU, on average over the last minute."""
    return os.getloadavg()[0]


def _instructions() -> str:
    """The instruction sets of this CPU that decide which arithmetic is fast."""
    flags = cpu_flags()
    return ", ".join(
        each for each in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp") if each in flags
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
