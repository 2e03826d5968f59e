"""The tables of a report: the cells as text, with the numbers that they are sorted by; forms of the report only lay them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.artifacts.measurement import bytes_text, memory_text, rate_text
from orchestrator.artifacts.verdict import GateName, GateResult
from orchestrator.report.model import Distribution, Estimate, PlaceKind, Report, Row
from orchestrator.report.words import factor, percent, time_text
from orchestrator.spec.gates import GATES
from orchestrator.verify.gates import closeness, nearest

__all__ = [
    "EMPTY",
    "SHOWN_LEVELS",
    "Cell",
    "Column",
    "Line",
    "Table",
    "batch_table",
    "distribution_table",
    "fate_table",
    "gate_table",
    "plane_table",
    "search_table",
    "size_table",
]

SHOWN_LEVELS = (0.5, 0.9, 0.95, 0.99, 0.999)
"""Quantiles in the table of a distribution."""

_GATE_TITLES: dict[GateName, str] = {
    "shape": "shape",
    "finite": "not finite",
    "max_column_error": "max column error",
    "min_column_cosine": "min column cosine",
    **{gate: gate.replace("_", " ") for gate in GATES},
}
"""Every gate with its heading, in the order of the table."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: what it says.
        value: what it is sorted by; None for its text.
        share: of the largest value in its column, for a bar; None for no bar.
        mood: `good` or `bad` where that is to be seen at a glance; the text says it as well.
        note: further text, less prominent.
    """

    text: str
    value: float | None = None
    share: float | None = None
    mood: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; `numeric` columns are right-aligned, columns of `prose` are wide."""

    title: str
    numeric: bool = False
    prose: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """The cells of a row of the report, by its index; the first one names it."""

    row: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table over rows of the report."""

    caption: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


EMPTY = Cell("")

_USUAL_CASE = "all samples"
"""The call that most gates are closest in; the name is that of `verify`."""


def fate_table(report: Report) -> Table:
    """Every candidate with its fate and its main numbers."""
    numbers = ("p99 over the wire", "rows/s", "median call", "speed-up", "size", "peak memory")
    return Table(
        "Every candidate and its fate",
        (
            Column("candidate"),
            Column("fate"),
            Column("reason", prose=True),
            Column("made as"),
            Column("backend"),
            *(Column(title, numeric=True) for title in numbers),
        ),
        tuple(
            Line(
                number,
                (
                    Cell(row.name),
                    Cell(row.fate, mood="good" if row.fate == "won" else ""),
                    Cell(f"[{row.code}] {row.reason}" if row.code else row.reason, note=row.remedy),
                    Cell(" ".join(part for part in (row.format, row.precision) if part)),
                    Cell(row.backend),
                    _estimate(row.p99, time_text),
                    _estimate(row.rate, rate_text),
                    _number(row.call, time_text),
                    _estimate(row.speed_up, factor),
                    _number(row.size, bytes_text),
                    _number(row.memory, memory_text),
                ),
            )
            for number, row in enumerate(report.rows)
        ),
    )


def plane_table(report: Report, kind: PlaceKind) -> Table | None:
    """The points of a plane; None if there is none."""
    plane = next((each for each in report.planes if each.kind == kind), None)
    if plane is None:
        return None
    return Table(
        f"Throughput and {plane.latency}",
        (
            Column("candidate"),
            Column("rows/s", numeric=True),
            Column(plane.latency, numeric=True),
            Column("Pareto front"),
        ),
        tuple(
            Line(
                point.row,
                (
                    Cell(report.rows[point.row].name),
                    _estimate(point.rate, rate_text, between=True),
                    _estimate(point.latency, time_text, between=True),
                    Cell("on it" if point.on_front else ""),
                ),
            )
            for point in plane.points
        ),
    )


def batch_table(report: Report) -> Table | None:
    """The median call and the rows per second of each batch size; None if nothing was measured in a runtime."""
    if not report.runtime_rows:
        return None

    def cells(row: Row) -> Iterator[Cell]:
        measured = {batch.rows: batch for batch in row.batches}
        for size in report.runtime_rows:
            found = measured.get(size)
            yield (
                EMPTY if found is None else Cell(time_text(found.p50), found.p50, note=f"p99 {time_text(found.p99)}")
            )
            yield EMPTY if found is None else Cell(rate_text(found.rate), found.rate)

    return Table(
        "Calls of each batch size in the runtimes, without a server",
        (
            Column("candidate"),
            *(
                Column(f"{what}, batch {size}", numeric=True)
                for size in report.runtime_rows
                for what in ("call", "rows/s")
            ),
        ),
        tuple(Line(number, (Cell(row.name), *cells(row))) for number, row in enumerate(report.rows) if row.batches),
    )


def search_table(report: Report) -> Table | None:
    """What each candidate took in each round of the search, and how it ended there; None without a search."""
    if not report.tried:
        return None
    return Table(
        f"Rounds of the search: {report.search_time}",
        (
            Column("candidate"),
            *(Column(f"round {number}", numeric=True) for number in report.search_rounds),
            Column("fate"),
            Column("reason", prose=True),
        ),
        tuple(
            Line(
                each.row,
                (
                    Cell(report.rows[each.row].name),
                    *(_number(each.times.get(number), time_text) for number in report.search_rounds),
                    Cell(report.rows[each.row].fate),
                    Cell(report.rows[each.row].reason),
                ),
            )
            for each in report.tried
        ),
    )


def distribution_table(report: Report, kind: PlaceKind) -> Table | None:
    """Some quantiles of each distribution with their intervals; None if there are none."""
    found = [each for each in report.distributions if each.kind == kind]
    if not found:
        return None

    def cells(each: Distribution) -> Iterator[Cell]:
        for level in SHOWN_LEVELS:
            if level not in each.levels:
                yield EMPTY
                continue
            at = each.levels.index(level)
            yield _estimate(Estimate(each.times[at], each.low[at], each.high[at]), time_text, between=True)

    return Table(
        "Quantiles with their 95 % intervals",
        (
            Column("candidate"),
            Column("samples", numeric=True),
            *(Column(f"p{level * 100:g}", numeric=True) for level in SHOWN_LEVELS),
        ),
        tuple(
            Line(each.row, (Cell(report.rows[each.row].name), Cell(f"{each.samples:,}", each.samples), *cells(each)))
            for each in found
        ),
    )


def gate_table(report: Report) -> Table | None:
    """Each candidate's measured value beside the limit of each gate; None if nothing was verified."""
    verified = [(number, row) for number, row in enumerate(report.rows) if row.gates]
    used = [gate for gate in _GATE_TITLES if any(each.gate == gate for _, row in verified for each in row.gates)]
    if not verified:
        return None
    judged = any(row.accuracy for _, row in verified)

    def cells(row: Row) -> Iterator[Cell]:
        passed = all(gate.passed for gate in row.gates)
        yield Cell("passed" if passed else "failed", mood="good" if passed else "bad")
        outputs = len({gate.output for gate in row.gates})
        yield from (_gate(nearest(row.gates, gate), outputs=outputs) for gate in used)
        if judged:
            yield _accuracy(row)

    return Table(
        "What was verified against the original model, beside the limits",
        (
            Column("candidate"),
            Column("verdict"),
            *(Column(_GATE_TITLES[gate], numeric=True) for gate in used),
            *([Column("accuracy (original)", numeric=True)] if judged else []),
        ),
        tuple(Line(number, (Cell(row.name), *cells(row))) for number, row in verified),
    )


def size_table(report: Report) -> Table | None:
    """Sizes and cold starts; None if nothing was measured."""
    found = [
        (number, row)
        for number, row in enumerate(report.rows)
        if row.size is not None or row.memory is not None or row.start.load is not None
    ]
    if not found:
        return None
    columns: list[tuple[str, Callable[[Row], float | None], Callable[[float], str]]] = [
        ("model files", lambda row: row.size, lambda count: bytes_text(int(count))),
        ("image", lambda row: row.image, lambda count: bytes_text(int(count))),
        ("peak memory", lambda row: row.memory, lambda count: memory_text(int(count))),
        ("load in the runtime", lambda row: row.start.load, time_text),
        ("first call", lambda row: row.start.first_call, time_text),
        ("server: start to ready", lambda row: row.start.ready, time_text),
        ("first request", lambda row: row.start.first_request, time_text),
    ]
    columns = [column for column in columns if any(column[1](row) is not None for _, row in found)]
    return Table(
        "Size and cold start",
        (Column("candidate"), *(Column(title, numeric=True) for title, _, _ in columns)),
        tuple(
            Line(number, (Cell(row.name), *cells))
            for (number, row), *cells in zip(
                found, *(_barred([value(row) for _, row in found], text) for _, value, text in columns), strict=True
            )
        ),
    )


def _barred(values: Sequence[float | None], text: Callable[[float], str]) -> list[Cell]:
    largest = max((value for value in values if value is not None), default=0.0)
    return [
        EMPTY if value is None else Cell(text(value), value, share=value / largest if largest > 0 else None)
        for value in values
    ]


def _number(value: float | None, text: Callable[[int], str] | Callable[[float], str]) -> Cell:
    return EMPTY if value is None else Cell(text(value), value)  # type: ignore[arg-type]  # sizes are whole


def _estimate(found: Estimate | None, text: Callable[[float], str], *, between: bool = False) -> Cell:
    if found is None:
        return EMPTY
    note = ""
    if between and found.low is not None and found.low != found.high:
        note = f"from {text(found.low)}" + ("" if found.high is None else f" to {text(found.high)}")
    return Cell(f"{'≥ ' if found.at_least else ''}{text(found.value)}", found.value, note=note)


def _gate(found: GateResult | None, *, outputs: int) -> Cell:
    """Where it was measured is said where that is not the only place, and where it failed."""
    if found is None:
        return EMPTY
    where = (found.output if outputs > 1 else "", found.case if found.case != _USUAL_CASE or not found.passed else "")
    note = found.detail if found.detail and not found.passed else ", ".join(part for part in where if part)
    return Cell(found.comparison, closeness(found), mood="" if found.passed else "bad", note=note)


def _accuracy(row: Row) -> Cell:
    texts = (f"{percent(each.variant)} ({percent(each.baseline)})" for each in row.accuracy.values())
    least = min((each.variant for each in row.accuracy.values()), default=None)
    return Cell(", ".join(texts), least)
