"""The steps of a canary with a target that splits between two servers of this machine: promoted, or taken back."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.events import Event, StepEnded, StepProgress, StepStarted
from orchestrator.measure.side_by_side import Allowed, Asked, Compared, Disturbed, compared
from orchestrator.release import canary
from orchestrator.release.canary import CanaryRun
from orchestrator.release.recorded import Recorded, allowed
from orchestrator.targets.section import Canary
from orchestrator.targets.target import Split

GOOD = compared([([0.003] * 10, [0.003] * 10)] * 8, ({}, {}))
SLOW = compared([([0.009] * 10, [0.003] * 10)] * 8, ({}, {}))


class Splitting:
    """A target that notes the shares and gives `pods` of them."""

    def __init__(self, *shares: float) -> None:
        self.given = iter(shares)
        self.asked: list[float] = []
        self.lost = 0
        self.later: tuple[float, str] | None = None

    def split(self, revision: int, share: float) -> Split | None:
        del revision
        self.asked.append(share)
        given = next(self.given)
        how = f"{given:.0%} of the pods"
        now = self.later or (given, how)
        return Split(given, how, "new", "old", lambda: None, lambda: self.lost, lambda: now) if given else None


class AskedOf:
    """What would be asked, without a store."""

    def to(self, url: str) -> Any:
        return Asked(1, [url.encode()], False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Event]]:
    """Run the steps 10 % and 50 % with these shares and measurements; returns the events."""
    events: list[Event] = []

    def run(
        shares: tuple[float, ...],
        *seen: Compared | BaseException,
        prove: Callable[[str], None] = lambda _: None,
        later: tuple[float, str] | None = None,
    ) -> list[Event]:
        found = iter(seen)

        def measure(*asked: Any) -> Compared:
            *_, progress, _ = asked
            measured = next(found)
            if isinstance(measured, BaseException):
                raise measured
            progress(30.0, measured)
            return measured

        monkeypatch.setattr(canary, "measure_side_by_side", measure)
        asked: Any = AskedOf()
        target: Any = Splitting(*shares)
        run.target = target  # type: ignore[attr-defined]
        target.later = later
        steps = Canary.model_validate({"steps": ["10%", "50%"], "hold": "60s"})
        CanaryRun(
            steps,
            target,
            events.append,
            scratch=tmp_path,
            prove=prove,
            new=asked,
            old=asked,
            allowed=Allowed(1.25, 1.25),
        ).run(3)
        return events

    run.events = events  # type: ignore[attr-defined]
    return run


def ended(events: list[Event]) -> list[str]:
    return [f"{each.status}: {each.detail}" for each in events if isinstance(each, StepEnded)]


def test_a_revision_that_is_not_worse_passes_each_step_with_a_line(run: Any) -> None:
    events = run((0.1, 0.5), GOOD, GOOD)
    assert ended(events) == [
        f"done: step {number} of 2, {share} of the traffic: really {share} ({share} of the pods): not worse:"
        " p50 3 ms against 3 ms, p99 3 ms against 3 ms, of 80 and 80 answers"
        for number, share in ((1, "10%"), (2, "50%"))
    ]
    held = next(each for each in events if isinstance(each, StepProgress) and "s left" in each.message)
    assert held.fraction == 0.5
    assert "holds, 30 s left: p50 3 ms against 3 ms" in held.message
    assert next(each.reason for each in events if isinstance(each, StepStarted)) == "step 1 of 2, 10% of the traffic"


def test_steps_that_give_the_same_are_held_once_and_it_is_said_what_they_really_give(run: Any) -> None:
    first, second = ended(run((0.5, 0.5), GOOD))
    assert "really 50% (50% of the pods), which only more replicas bring nearer: not worse" in first
    assert second.endswith("really 50% (50% of the pods): as in the step before")


def test_a_slow_revision_is_refused_with_the_figures_and_passes_once_it_is_as_fast(run: Any) -> None:
    with pytest.raises(DeployFailed) as failed:
        run((0.1, 0.5), GOOD, SLOW)
    (problem,) = failed.value.diagnostics
    assert problem.code == "E626"
    assert "at really 50%" in problem.cause
    assert "3.00 times as long" in problem.cause
    assert "p50 9 ms against 3 ms" in problem.notes[0]
    assert [line.partition(":")[0] for line in ended(run.events)] == ["done", "failed"]
    assert "limits of CPU and memory" in problem.remedy
    run.events.clear()
    run((0.1, 0.5), GOOD, GOOD)  # with more CPU
    assert [line.partition(":")[0] for line in ended(run.events)] == ["done", "done"]


def test_a_wrong_answer_ends_it_before_anything_is_measured(run: Any) -> None:
    def prove(url: str) -> None:
        raise DeployFailed(Diagnostic("E608", f"{url} answers wrongly"))

    with pytest.raises(DeployFailed, match="new answers wrongly"):
        run((0.1, 0.5), prove=prove)
    assert ended(run.events)[0].startswith("failed: step 1 of 2")


def test_golden_requests_that_are_lost_on_the_way_are_sent_again(run: Any) -> None:
    asked: list[str] = []

    def prove(url: str) -> None:
        asked.append(url)
        if len(asked) < 3:
            run.target.lost += 1
            raise DeployFailed(Diagnostic("E609", f"{url} does not answer"))

    run((0.1, 0.5), GOOD, GOOD, prove=prove)
    assert len(asked) == 4  # three at the first step


def test_golden_requests_that_fail_on_a_way_that_is_sound_are_not_sent_again(run: Any) -> None:
    asked: list[str] = []

    def prove(url: str) -> None:
        asked.append(url)
        raise DeployFailed(Diagnostic("E609", f"{url} does not answer"))

    with pytest.raises(DeployFailed, match="does not answer"):
        run((0.1,), prove=prove)
    assert len(asked) == 1


def test_a_way_that_is_disturbed_says_nothing_of_a_revision_and_it_passes_once_it_is_not(run: Any) -> None:
    with pytest.raises(DeployFailed) as failed:
        run((0.1, 0.5), Disturbed("5 rounds in a row, such as: closed"))
    (problem,) = failed.value.diagnostics
    assert problem.code == "E627"
    assert "5 rounds in a row, such as: closed" in problem.cause
    assert "run `mlo apply` again; nothing was found against the revision" in problem.remedy
    assert ended(run((0.1, 0.5), GOOD, GOOD))[-1].startswith("done")


def test_a_share_that_somebody_changed_meanwhile_is_told(run: Any) -> None:
    (line, _) = ended(run((0.25, 0.25), GOOD, later=(0.29, "2 of 7 pods")))
    assert line.endswith("of 80 and 80 answers; at its end 29% (2 of 7 pods)")


def test_where_nothing_serves_it_takes_over_at_once(run: Any) -> None:
    (line,) = ended(run((0.0,)))
    assert "nothing serves beside it" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_step_takes_the_revision_back(run: Any, number: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run((0.1, 0.5), prove=lambda _: signal.raise_signal(number))
    (line,) = ended(run.events)
    assert line == (
        "stopped: step 1 of 2, 10% of the traffic: interrupted; the new revision is taken back, and what served before serves alone"
    )
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("new", "old", "call", "p99"),
    [
        (None, Recorded(0.002, (0.003, 0.004)), 1.25, 1.25),
        (Recorded(0.001, (0.002, 0.003)), Recorded(0.002, (0.004, 0.005)), 1.25, 1.25),
        (Recorded(0.004, (0.006, 0.012)), Recorded(0.002, (0.003, 0.004)), 2.5, 5.0),
        (Recorded(0.004, (0.006, None)), Recorded(0.002, None), 2.5, 1.25),
    ],
)
def test_what_was_slower_when_it_was_decided_may_be(
    new: Recorded | None, old: Recorded | None, call: float, p99: float
) -> None:
    assert allowed(new, old) == Allowed(call, p99)
