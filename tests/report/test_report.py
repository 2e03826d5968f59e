"""What a report says of a decision, in every form, and which file it is written to."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.artifacts.measurement import bytes_text
from orchestrator.cli.main import cli
from orchestrator.errors import StoreFailed, UsageError
from orchestrator.measure.statistics import percentile_interval
from orchestrator.report.front import on_front
from orchestrator.report.html import html
from orchestrator.report.markdown import escaped, markdown
from orchestrator.report.tables import distribution_table, fate_table, gate_table, search_table
from orchestrator.report.words import factor, limit_text, percent, time_text
from tests.optimize.select_case import not_timed, runtime_candidate, server_candidate
from tests.report.report_case import PROCESSOR, decided, failed_gate, gates, many, report_of, search_round


def _data(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    return found


def _two(folder: Path, **options: Any) -> Any:
    names = ("onnx-int8", "onnx-fp32")
    runtime = [runtime_candidate(names[0], ratio=0.1, spread=0.02), runtime_candidate(names[1], ratio=0.5)]
    server = [server_candidate(names[0], p99=0.004, rows_per_second=3000), server_candidate(names[1], p99=0.009)]
    return decided(folder, runtime, server, refused=["onnx-bf16"], verdicts={n: gates(n) for n in names}, **options)


def test_a_deployed_decision_is_told_with_its_numbers(tmp_path: Path) -> None:
    report = report_of(_two(tmp_path))
    assert report.decision.startswith("onnx-int8 on onnxruntime won: best p99 over the wire")
    assert report.level == "Service level: p99 within 20 ms at 200 requests/s, proven at 99 % confidence"
    assert (report.won, report.proven) == (True, True)
    assert [row.name for row in report.rows] == ["onnx-int8", "onnx-fp32", "onnx-bf16", "(original model)"]
    facts = {fact.name: fact.value for fact in (*report.facts, *report.environment)}
    assert facts["p99 over the wire at 200/s"] == "4.00 ms"
    assert facts["speed-up in the runtime"] == "10.0x"
    assert facts["processor"] == PROCESSOR
    speed_up = report.rows[0].speed_up
    assert speed_up is not None
    assert speed_up.low == pytest.approx(1 / 0.12)
    assert speed_up.high == pytest.approx(1 / 0.08)
    server, runtime = report.planes
    assert (server.limit, runtime.limit) == (0.02, None)
    assert [point.on_front for point in server.points] == [True, False]


def test_a_decision_in_which_nothing_won_is_told_with_what_to_do(tmp_path: Path) -> None:
    name = "onnx-fp32"
    store = decided(tmp_path, [runtime_candidate(name)], [server_candidate(name, p99=0.0312, over=100)])
    report = report_of(store)
    assert report.decision.startswith("Nothing won: no candidate meets the SLO: the 99th percentile must be")
    assert "--replace benchmark.server" in report.remedy
    assert report.proven is False
    assert not report.facts
    text = markdown(report)
    assert "### ❌ digits" in text
    assert "slo missed" in text
    page = html(report)
    assert "What to do:" in page
    assert "<code>mlo apply SPEC --replace benchmark.server</code>" in page
    assert "Lowest p99: onnx-fp32 on onnxruntime (slo missed): p99 31.2 ms at 200/s" in page
    assert 'class="decision bad"' in page


def test_a_decision_without_any_measurement_has_only_fates(tmp_path: Path) -> None:
    store = decided(tmp_path, [not_timed("onnx-fp32", "not measured", "it could not be")], None, raw=False)
    report = report_of(store)
    assert [each.kind for each in report.planes] == ["runtime"], "the original model alone"
    assert report.distributions == ()
    page = html(report)
    assert 'id="distribution"' not in page
    assert "it could not be" in page


def test_gates_are_beside_their_limits_also_where_they_failed(tmp_path: Path) -> None:
    runtime = [runtime_candidate("onnx-fp32"), not_timed("onnx-int8", "not measured")]
    store = decided(
        tmp_path,
        runtime,
        [server_candidate("onnx-fp32")],
        verdicts={"onnx-fp32": gates("onnx-fp32"), "onnx-int8": failed_gate("onnx-int8")},
    )
    table = gate_table(report_of(store))
    assert table is not None
    assert [column.title for column in table.columns][2:] == [
        "not finite",
        "max abs error",
        "min cosine",
        "accuracy (original)",
    ]
    passed, failed = ([cell.text for cell in line.cells] for line in table.lines)
    assert passed == ["onnx-fp32", "passed", "0 ≤ 0", "0.177 ≤ 4.711", "0.9997 ≥ 0.99", "99.22 % (99.61 %)"]
    assert failed == ["onnx-int8", "failed", "", "", "0.91 < 0.99", ""]


def test_quantiles_are_those_of_the_raw_times_with_their_exact_intervals(tmp_path: Path) -> None:
    store = _two(tmp_path)
    report = report_of(store)
    runtime = next(store.home.trees.glob("*/*/runtime_report.json"))
    with np.load(runtime.with_name("raw.npz")) as arrays:
        times = sorted(arrays["onnx-int8.b1.seconds"].tolist())
    found = next(each for each in report.distributions if each.kind == "runtime")
    assert (report.rows[found.row].name, found.samples) == ("onnx-int8", 2000)
    for level in (0.5, 0.9, 0.99):
        at = found.levels.index(level)
        assert found.times[at] == times[math.ceil(level * 2000) - 1]
        assert (found.low[at], found.high[at]) == percentile_interval(times, level)
    assert max(found.levels) == 0.9995, "one of 2,000 samples is beyond it"
    table = distribution_table(report, "server")
    assert table is not None
    assert re.fullmatch(r"from \d.\d\d ms to \d.\d\d ms", table.lines[0].cells[5].note), table.lines[0]


def test_a_report_without_the_raw_times_says_so_and_has_the_rest(tmp_path: Path) -> None:
    report = report_of(_two(tmp_path, raw=False))
    assert report.distributions == ()
    assert len(report.planes) == 2


@pytest.mark.parametrize("content", [b"", b"damaged", b"PK\x05\x06"], ids=["empty", "other", "cut"])
def test_damaged_raw_times_are_refused_with_what_to_do(content: bytes, tmp_path: Path) -> None:
    store = _two(tmp_path)
    raw = next(store.home.trees.glob("*/*/server_report.json")).with_name("raw.npz")
    raw.chmod(0o600)
    raw.write_bytes(content)
    with pytest.raises(StoreFailed, match="cannot read the times") as refused:
        report_of(store)
    assert "--replace" in refused.value.diagnostics[0].remedy


def test_the_rounds_of_a_search_are_those_that_led_to_the_finalists(tmp_path: Path) -> None:
    rounds = [search_round(onnx_int8=0.002, onnx_fp32=0.004), search_round(onnx_int8=0.001)]
    store = _two(tmp_path, rounds=rounds)
    report = report_of(store)
    assert [(report.rows[each.row].name, dict(each.times)) for each in report.tried] == [
        ("onnx-int8", {1: 0.002, 2: 0.001}),
        ("onnx-fp32", {1: 0.004}),
    ]
    table = search_table(report)
    assert table is not None
    assert [cell.text for cell in table.lines[1].cells[:4]] == ["onnx-fp32", "4.00 ms", "", "lost"]
    # A round that was measured anew since is no part of this decision.
    first, selected = (store.receipts.latest(step, "digits") for step in ("benchmark.round-1", "select"))
    assert first is not None
    assert selected is not None
    store.receipts.write(first.model_copy(update={"key": "b" * 64, "manifest": selected.manifest}))
    assert [dict(each.times) for each in report_of(store).tried] == [{2: 0.001}]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1.0, 1.0)], [True]),
        ([(10, 5), (20, 5), (20, 9), (5, 1)], [False, True, False, True]),
        ([(10, 5), (10, 5), (9, 6)], [True, True, False]),
        ([(10, 5), (10, 4)], [False, True]),
        ([], []),
    ],
)
def test_the_front_has_what_no_other_beats_in_one_without_losing_in_the_other(
    points: list[tuple[float, float]], front: list[bool]
) -> None:
    assert on_front(points) == front


def test_hundreds_of_candidates_stay_below_a_megabyte_and_a_half(tmp_path: Path) -> None:
    report = report_of(many(tmp_path, 400))
    page = html(report)
    assert len(page.encode()) < 1_500_000
    assert len(_data(page)["batches"]) == 401, "with the original model"
    assert sum(point.on_front for point in report.planes[1].points) >= 1


def test_names_and_reasons_cannot_become_markup_or_end_the_data(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>\u202e<!--"
    store = decided(tmp_path, [runtime_candidate("onnx-fp32", reason=evil, fate="failed")], [], refused=["onnx-bf16"])
    report = report_of(store)
    page = html(report)
    assert evil in report.rows[0].reason + report.rows[1].reason
    assert "<img" not in page
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;\\u202e&lt;!--" in page
    assert "&lt;b&gt;it&lt;/b&gt; has no kernels &amp; more" in page
    assert page.count("</script>") == page.count("<script") == 3
    text = markdown(report)
    assert "<img" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b `c` <d> [e](f) *g*", r"a\|b `c` &lt;d&gt; \[e\](f) \*g\*"),
        ("line\nbreak", "line break"),
        ("set `slo: {a|b}` <or> one ` alone", r"set `slo: {a\|b}` &lt;or&gt; one \` alone"),
        ("onnx-int8@openvino asks @somebody", "onnx-int8@openvino asks @<!-- -->somebody"),
        ("\x1b[31mred & <!--", r"\\u001b\[31mred &amp; &lt;!--"),
    ],
)
def test_markdown_is_escaped_and_mentions_nobody(text: str, shown: str) -> None:
    assert escaped(text) == shown


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (time_text(0.0000217), "21.7 µs"),
        (time_text(0.0009999), "1.00 ms"),
        (time_text(0.00643), "6.43 ms"),
        (time_text(0.4780), "478 ms"),
        (time_text(75.04), "75.0 s"),
        (limit_text(0.02), "20 ms"),
        (limit_text(1.5), "1.5 s"),
        (factor(11.23), "11.2x"),
        (factor(0.684), "0.68x"),
        (percent(0.99609), "99.61 %"),
        (bytes_text(128_000), "128 kB"),
        (bytes_text(3_140_000), "3.1 MB"),
        (bytes_text(161_000_000), "161 MB"),
    ],
)
def test_numbers_are_written_as_people_read_them(shown: str, text: str) -> None:
    assert shown == text


def _report(*arguments: str) -> None:
    cli.main(["report", *arguments], prog_name="mlo", standalone_mode=False)


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a decision under the name `digits` in its store."""
    monkeypatch.setenv("MLO_HOME", str(_two(tmp_path).home.root))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_markdown_is_printed_and_a_page_is_written(at_hand: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _report("digits", "--format", "markdown")
    printed = capsys.readouterr().out
    assert printed.startswith("<!-- mlo report: digits -->\n### ✅ digits\n\n**onnx-int8 on onnxruntime won")
    _report("digits", "--output", "report.html")
    page = (at_hand / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert re.fullmatch(r"report.html: [\d,]+ kB\n", capsys.readouterr().out)


def test_only_an_earlier_report_is_replaced(at_hand: Path) -> None:
    _report("digits", "-o", "report.html")
    (at_hand / "report.html").write_text((at_hand / "report.html").read_text(encoding="utf-8")[:100], encoding="utf-8")
    _report("digits", "-o", "report.html")
    assert "</html>" in (at_hand / "report.html").read_text(encoding="utf-8")
    (at_hand / "notes.txt").write_text("mine", encoding="utf-8")
    for place, message in (("notes.txt", "is not a report"), (".", "is a folder")):
        with pytest.raises(UsageError, match=message) as refused:
            _report("digits", "-o", place)
        assert refused.value.diagnostics[0].code == "E216"
    assert (at_hand / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_what_is_no_regular_file_is_neither_replaced_nor_waited_for(at_hand: Path) -> None:
    pipe = at_hand / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="no regular file"):
        _report("digits", "--output", str(pipe))
    assert pipe.is_fifo()


def test_a_name_about_which_nothing_is_decided_is_refused(at_hand: Path) -> None:
    with pytest.raises(UsageError) as refused:
        _report("faces", "--format", "markdown")
    assert refused.value.diagnostics[0].code == "E602"
    assert "mlo report faces.yaml" in refused.value.diagnostics[0].remedy


def test_every_candidate_has_a_line_with_its_fate(tmp_path: Path) -> None:
    report = report_of(_two(tmp_path))
    fates = {line.cells[0].text: line.cells[1].text for line in fate_table(report).lines}
    assert fates == {
        "onnx-int8": "won",
        "onnx-fp32": "lost",
        "onnx-bf16": "refused",
        "(original model)": "original model",
    }
