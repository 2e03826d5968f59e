"""Whatever was measured, a search is determined by it: in what order steps ended, when, and in how many runs makes no difference."""

from __future__ import annotations

import random
import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from orchestrator.plan.expand import expand
from tests.plan.search_world import World, by_options, fates, finalists

_PARTS = ("openvino", "int8", "slim", "ort", "channel", "types", "percentile", "threads", "spinning", "graph", "arena")
_FACTORS = st.fixed_dictionaries({part: st.floats(0.3, 1.5) for part in _PARTS})
_NOISE = st.floats(0.0, 0.3)
_SECONDS = st.fixed_dictionaries({kind: st.integers(1, 12) for kind in ("optimize.", "verify.", "benchmark.round")})


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])  # to shrink an example takes minutes
@given(factors=_FACTORS, noise=_NOISE, seconds=_SECONDS, seed=st.integers(0, 2**32), killed_after=st.floats(0.0, 1.0))
def test_the_same_measurements_lead_to_the_same_candidates(
    factors: dict[str, float], noise: float, seconds: dict[str, int], seed: int, killed_after: float
) -> None:
    def turn(name: str, number: int) -> float:
        return max(0.1, random.Random(f"{seed} {name} {number}").gauss(1.0, noise))

    with tempfile.TemporaryDirectory() as folder:
        made = World(
            Path(folder, "world"),
            by_options(**factors),
            budget="4m",
            precisions="[fp32, int8]",
            seconds=seconds,
            turn=turn,
        )
        first = made.plan()
        whole, ran, outcomes = made.run(first), list(made.ran), dict(made.outcomes)

        shuffled = list(outcomes.items())
        random.Random(seed).shuffle(shuffled)
        assert expand(first, dict(shuffled), made.store.trees) == whole

        made.outcomes = {name: outcomes[name] for name in ran[: int(killed_after * len(ran))] if name in outcomes}
        made.ran.clear()
        made.clock += timedelta(days=1)
        resumed = made.run(first)

    assert made.ran == ran[int(killed_after * len(ran)) :], "nothing is done twice, and nothing else is done"
    assert (finalists(resumed), fates(resumed)) == (finalists(whole), fates(whole))
