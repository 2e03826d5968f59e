"""The report in a real browser (Chromium, headless): what it draws, sorts, filters and says, on a screen and on paper."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.render.assets import REPORT_TEMPLATES, assets_digest, assets_dir
from orchestrator.report.html import html
from tests.optimize.select_case import not_timed, runtime_candidate, server_candidate
from tests.report.browser import Page, browse
from tests.report.report_case import decided, gates, many, report_of, search_round

TEMPLATES = assets_dir("templates") / REPORT_TEMPLATES

CHARTS = ("plane-server", "plane-runtime", "batch-chart", "search-chart", "distribution-server", "distribution-runtime")
DRAWN = """(() => [...document.querySelectorAll(".chart")].map((chart) => {
  const canvas = chart.querySelector("canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const inks = new Set();
  for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3] > 200) inks.add(pixels.slice(at, at + 3).join());
  return [chart.id, Number(chart.dataset.marks), inks.size];
}))()"""
FIRST_CELLS = """[...document.querySelectorAll("#fate-table tbody tr")].filter((row) => !row.hidden)
  .map((row) => row.cells[0].textContent)"""


def page_of(folder: Path) -> str:
    """The URL of a page about three candidates over the wire and one that is refused."""
    names = ("onnx-int8", "onnx-fp32", "torchscript-fp32")
    runtime = [runtime_candidate(name, ratio=0.1 + 0.3 * place, spread=0.02) for place, name in enumerate(names)]
    server = [
        server_candidate(name, p99=0.004 + 0.003 * place, rows_per_second=3000 - 900 * place)
        for place, name in enumerate(names)
    ]
    rounds = [search_round(onnx_int8=0.002, onnx_fp32=0.004), search_round(onnx_int8=0.001)]
    verdicts = {name: gates(name) for name in names}
    store = decided(folder, runtime, server, refused=["onnx-bf16"], verdicts=verdicts, rounds=rounds)
    return _written(folder, html(report_of(store)))


def _written(folder: Path, page: str) -> str:
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    return file.as_uri()


@pytest.mark.processes
def test_charts_are_drawn_tables_sort_and_filter_and_nothing_is_fetched(tmp_path: Path) -> None:
    url = page_of(tmp_path)

    async def visit(page: Page) -> None:
        await page.open(url)
        drawn = {name: (marks, inks) for name, marks, inks in await page.run(DRAWN)}
        assert tuple(drawn) == CHARTS
        assert {name: marks for name, (marks, _) in drawn.items()} | {"distribution-server": 0, "distribution-runtime": 0} == {
            "plane-server": 3, "plane-runtime": 4, "batch-chart": 4, "search-chart": 3, "distribution-server": 0, "distribution-runtime": 0,
        }  # fmt: skip
        assert drawn["distribution-server"][0] > 3 * 15, "a mark for each quantile"
        assert all(inks > 4 for _, inks in drawn.values()), "grid, text and several candidates"
        await _sorts(page)
        await _filters(page)
        await _answers_the_mouse(page)
        await page.open(url)
        await _has_names(page)
        await _is_used_by_keyboard(page)
        assert page.said == []
        assert page.asked == []

    browse(visit)


async def _sorts(page: Page) -> None:
    order = await page.run(FIRST_CELLS)
    assert order == ["onnx-int8", "onnx-fp32", "torchscript-fp32", "onnx-bf16", "(original model)"]
    heading = """[...document.querySelectorAll("#fate-table thead th")].find((th) => th.textContent.includes("median call"))"""
    ascending = ["onnx-int8", "onnx-fp32", "torchscript-fp32", "(original model)", "onnx-bf16"]
    descending = ["(original model)", "torchscript-fp32", "onnx-fp32", "onnx-int8", "onnx-bf16"]
    for wanted, direction in ((ascending, "ascending"), (descending, "descending")):
        await page.run(f"{heading}.querySelector('button').click()")
        assert await page.run(FIRST_CELLS) == wanted, "what was not measured comes last"
        assert await page.run(f"{heading}.getAttribute('aria-sort')") == direction


async def _filters(page: Page) -> None:
    await page.run("document.getElementById('filter').focus()")
    await page.press("onnx fp32")
    assert await page.run(FIRST_CELLS) == ["onnx-fp32"]
    assert await page.run("document.getElementById('count').textContent") == "1 of 5 shown"
    assert {name: marks for name, marks, _ in await page.run(DRAWN)}["plane-server"] == 1
    await page.run("document.getElementById('filter').select()")
    await page.press("nothing like it")
    assert await page.run("document.querySelectorAll('.chart .nothing').length") == len(CHARTS)
    await page.run(
        "document.getElementById('filter').value = ''; document.getElementById('fate').value = 'refused';"
        "document.getElementById('fate').dispatchEvent(new Event('change'))"
    )
    assert await page.run(FIRST_CELLS) == ["onnx-bf16"]
    await page.run(
        "document.getElementById('fate').value = ''; document.getElementById('fate').dispatchEvent(new Event('change'))"
    )
    assert len(await page.run(FIRST_CELLS)) == 5


async def _has_names(page: Page) -> None:
    """What a screen reader announces: everything to be used has a name, and the picture of a chart is not in the way."""
    await page.ask("Accessibility.enable")
    tree = (await page.ask("Accessibility.getFullAXTree"))["nodes"]
    found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    used = {"application", "button", "combobox", "link", "region", "search", "searchbox", "table", "DisclosureTriangle"}
    assert {role for role, _ in found} >= used
    assert [each for each in found if each[0] in used and not each[1]] == []
    assert "Canvas" not in {role for role, _ in found}


async def _is_used_by_keyboard(page: Page) -> None:
    """From the top, Tab comes to every control and chart; arrows go through a chart, Enter sorts."""
    reached: list[str] = []
    while "#content" not in reached[1:]:
        await page.press("Tab")
        reached.append(
            await page.run(
                "((at) => at.id || at.getAttribute('href') || at.textContent.trim() || at.tagName)(document.activeElement)"
            )
        )
        if reached[-1] == "plane-server":
            await page.press("ArrowRight")
            said = await page.run("document.getElementById('plane-server-readout').textContent")
            assert re.match(r"torchscript-fp32: 1,200 rows/s, 10\.0 ms \(95 %: ", said), said
            assert (
                await page.run("document.getElementById('plane-server-readout').getAttribute('aria-live')") == "polite"
            )
        if reached[-1] == "fate" and len(reached) < 20:
            assert await page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", "focus is seen"
    await page.run("document.querySelector('#fate-table thead button').focus()")
    await page.press("Enter")
    assert (await page.run(FIRST_CELLS))[0] == "(original model)", "by name"
    wanted = ["#content", "filter", "fate", *CHARTS, "batch-measure", "candidate", "The numbers as a table"]
    assert [each for each in wanted if each not in reached] == []
    assert reached.index("filter") < reached.index("plane-server") < reached.index("batch-chart")


async def _answers_the_mouse(page: Page) -> None:
    x, y = await page.run("""(() => { const chart = document.getElementById("plane-runtime");
      chart.scrollIntoView({block: "center"});
      const box = chart.querySelector(".u-over").getBoundingClientRect();
      return [box.left, box.top]; })()""")
    said = set()
    for step in range(0, 300, 15):
        await page.move(x + step, y + 25)
        await page.run("new Promise(requestAnimationFrame)")
        said.add(await page.run("document.getElementById('plane-runtime-readout').textContent"))
    assert "(original model): 250 rows/s, 4.00 ms" in said, said


@pytest.mark.processes
def test_it_fits_a_phone_follows_dark_mode_and_prints_in_light_colours(tmp_path: Path) -> None:
    url = page_of(tmp_path)

    async def visit(page: Page) -> None:
        await page.open(url, width=390, height=844, dark=True)
        assert await page.run("document.documentElement.scrollWidth") == 390, "only tables scroll, in their own boxes"
        assert await page.run("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
        assert all(marks for _, marks, _ in await page.run(DRAWN))
        await page.open(url, dark=True)
        printed = await page.paper()
        assert printed.startswith(b"%PDF")
        assert len(printed) > 40_000
        # What was changed for paper is undone, and charts were drawn for it with the colours of light paper.
        assert await page.run("'paper' in document.documentElement.dataset") is False
        await page.run("window.dispatchEvent(new Event('beforeprint'))")
        assert (
            await page.run("getComputedStyle(document.documentElement).getPropertyValue('--text').trim()") == "#1f2328"
        )
        assert await page.run("document.querySelectorAll('details:not([open])').length") == 0
        await page.run("window.dispatchEvent(new Event('afterprint'))")
        assert await page.run("document.querySelectorAll('details[open]').length") == 0
        assert page.said == []
        assert page.asked == []

    browse(visit)


@pytest.mark.processes
def test_hundreds_of_candidates_and_none_at_all_are_shown(tmp_path: Path) -> None:
    crowd = _written(tmp_path, html(report_of(many(tmp_path / "many", 300))))
    (tmp_path / "none").mkdir()
    nobody = decided(tmp_path / "none", [not_timed("onnx-fp32", "not measured", "no server")], None, raw=False)
    alone = _written(tmp_path / "none", html(report_of(nobody)))

    async def visit(page: Page) -> None:
        await page.open(crowd)
        assert {name: marks for name, marks, _ in await page.run(DRAWN)}["plane-runtime"] == 301
        assert "295 more" in await page.run("document.getElementById('plane-runtime-legend').textContent")
        await page.run("document.getElementById('filter').focus()")
        await page.press("onnx-fp32")
        assert await page.run(FIRST_CELLS) == ["onnx-fp32"]
        await page.open(alone)
        assert await page.run("document.querySelector('.decision').textContent") == (
            "Nothing won: no candidate is left: each one was refused, failed or could not be measured."
        )
        assert page.said == []

    browse(visit)


def test_the_library_is_as_published_and_its_licence_is_beside_it() -> None:
    told = dict(
        re.findall(
            r"\| `(uPlot\.[\w.]+)` \|.*`([0-9a-f]{64})` \|", (TEMPLATES / "README.md").read_text(encoding="utf-8")
        )
    )
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in TEMPLATES.glob("uPlot.*")}
    assert found == told
    assert len(found) == 3


def test_nothing_in_a_script_or_style_ends_its_element() -> None:
    for file in [*TEMPLATES.glob("*.js"), *TEMPLATES.glob("*.css")]:
        assert not re.search(r"</(script|style)|<!--", file.read_text(encoding="utf-8"), re.IGNORECASE), file.name


def test_the_page_allows_its_own_script_and_style_only(tmp_path: Path) -> None:
    store = decided(tmp_path, [runtime_candidate("onnx-fp32")], [server_candidate("onnx-fp32")])
    page = html(report_of(store))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy[1]
    assert not re.search(
        r"\s(on\w+|style)=", page.partition("<body>")[2].partition('<script type="application/json"')[0]
    )
    assert not re.search(r'(src|href)="(?!#|data:,)', page)


def test_the_report_is_no_part_of_what_is_rendered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = assets_digest()
    file = TEMPLATES / "report.css"
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"changed" if path == file else real(path))
    assets_digest.cache_clear()
    assert assets_digest() == before, "a change of its style does not measure servers again"


def _colours() -> list[dict[str, str]]:
    """The light and the dark colours of the style, by name."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root[^{]*\{([^}]*)\}", style)
    )
    return [light, dark]


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, "contrast ratio"."""

    def luminance(colour: str) -> float:
        parts = [part / 255 for part in bytes.fromhex(colour[1:])]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else math.pow((part + 0.055) / 1.055, 2.4) for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("place", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(place: int) -> None:
    colours: dict[str, Any] = _colours()[place]
    assert set(colours) == set(_colours()[0]), "both have all colours"
    for text in ("text", "faint", "link", "good", "bad", "limit"):
        for ground in ("paper", "panel"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for mark in ("s1", "s2", "s3", "s4", "s5", "s6", "other", "edge", "focus", "bar"):
        assert _contrast(colours[mark], colours["paper"]) >= 3, mark
