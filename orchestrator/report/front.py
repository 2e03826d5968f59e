"""The Pareto front of latency and throughput: those that no other beats in one without losing in the other."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["on_front"]


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each point whether it is on the front; equal points are all on it or none.

    Args:
        points: throughput, of which more is better, and latency, of which less is.
    """
    found = [False] * len(points)
    least = float("inf")  # the latency of the best point with a higher throughput
    order = sorted(range(len(points)), key=lambda number: (-points[number][0], points[number][1]))
    for place, number in enumerate(order):
        if points[number][1] < least:
            found[number] = True
            least = points[number][1]
        elif place and points[number] == points[order[place - 1]]:
            found[number] = found[order[place - 1]]
    return found
