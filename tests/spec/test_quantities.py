"""Quantities are exact, and are shown as a spec writes them."""

from __future__ import annotations

import pytest

from orchestrator.spec.quantities import cpus_text, duration_text, rate_text, size_text
from orchestrator.spec.types import AS_WRITTEN
from tests.spec.conftest import BASE, Load


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("9ms", 0.009), ("300us", 0.0003), ("50us", 0.00005), ("1.5s", 1.5), ("90s", 90.0), ("5m", 300.0), ("2h", 7200.0)],
)
def test_a_duration_is_the_number_that_is_written_and_is_shown_as_such(
    load: Load, written: str, seconds: float
) -> None:
    slo = load(BASE + f"slo: {{p99_latency: {written}}}\n").spec.slo
    assert slo.p99_latency == seconds
    assert slo.model_dump(mode="json")["p99_latency"] == seconds
    assert slo.model_dump(mode="json", context=AS_WRITTEN)["p99_latency"] == written
    assert duration_text(seconds) == written


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (duration_text(0.0), "0"),
        (duration_text(0.0000005), "0.5us"),
        (duration_text(3661.0), "3661s"),
        (size_text(2**31), "2Gi"),
        (size_text(100_000_000), "100M"),
        (size_text(3 * 2**20), "3Mi"),
        (size_text(12345), "12345"),
        (rate_text(200.0), "200/s"),
        (rate_text(0.5), "0.5/s"),
        (str(cpus_text(2.0)), "2"),
        (str(cpus_text(0.5)), "0.5"),
    ],
)
def test_units_are_those_of_a_spec(text: str, shown: str) -> None:
    assert text == shown
