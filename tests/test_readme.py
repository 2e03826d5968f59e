"""What the README and the pages say of sources, formats, backends and limits is what the tables say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from orchestrator.backends.table import backends_of
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.sources import SOURCES
from orchestrator.optimize.transform import Unsupported
from orchestrator.spec.gates import DEFAULT_GATES
from orchestrator.verify.gates import COLUMN_ROOM

README = Path(__file__).parents[1] / "README.md"
WORDS = {
    "onnx": "ONNX",
    "torchscript": "TorchScript",
    "exported-program": "exported program",
    "saved-model": "SavedModel",
    "tflite": "LiteRT",
}
SERVERS = {
    "onnxruntime": "mlo's ONNX Runtime server",
    "openvino": "the same with OpenVINO",
    "torchserve": "TorchServe",
    "tensorflow-serving": "TensorFlow Serving",
    "litert": "a device, from a folder",
}


def cell(kind: str, name: str) -> str:
    row = FORMATS[name]
    if isinstance(row.convert[kind], Unsupported):
        return "-"
    made = [
        precision
        for precision, transform in row.precisions.items()
        if not isinstance(transform, Unsupported) and kind not in transform.not_from
    ]
    return ", ".join(made)


def table() -> str:
    names = list(FORMATS)
    lines = [
        "| source | " + " | ".join(WORDS[name] for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
        *(f"| `{kind}` | " + " | ".join(cell(kind, name) for name in names) + " |" for kind in SOURCES),
        "| served by | "
        + " | ".join(" or ".join(SERVERS[backend] for backend in backends_of(name)) for name in names)
        + " |",
    ]
    return "\n".join(lines)


def test_the_table_of_kinds_is_current() -> None:
    found = re.search(r"<!-- kinds -->\n(.*?)\n<!-- /kinds -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert found[1] == table(), f"write into the README:\n{table()}"


def extras() -> set[str]:
    """What `pip install 'mlo[...]'` may name, besides the tools of tests."""
    project = tomllib.loads((README.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"]) - {"dev"}


def test_the_extras_are_all_named() -> None:
    found = re.search(r"The extras are (.*?)\.\n", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert set(re.findall(r"`(\w+)`", found[1])) == extras()


def test_what_is_to_be_installed_exists() -> None:
    for page in (README, *(README.parent / "docs").glob("*.md")):
        for names in re.findall(r"mlo\[([\w,]+)\]", page.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= extras(), page.name


def test_every_page_is_listed_under_documentation() -> None:
    listed = re.findall(r"\]\(docs/(\w+\.md)\)", README.read_text(encoding="utf-8").partition("## Documentation")[2])
    assert set(listed) == {page.name for page in (README.parent / "docs").glob("*.md")}


def test_the_default_limits_are_current() -> None:
    gates = list(DEFAULT_GATES.values())
    rows: dict[str, list[float] | list[str]] = {
        "max_abs_error": [each.max_scaled_error for each in gates],
        "min_cosine": [each.limits["min_cosine"] for each in gates],
        "max_column_error": [COLUMN_ROOM * each.max_scaled_error for each in gates],
        "min_column_cosine": [1 - COLUMN_ROOM * (1 - each.limits["min_cosine"]) for each in gates],
        "min_top1_agreement": [each.limits["min_top1_agreement"] for each in gates],
        "values of edge cases": ["gated" if each.edges_by_value else "measured only" for each in gates],
    }
    page = (README.parent / "docs" / "verify.md").read_text(encoding="utf-8")
    section = re.search(r"## Default limits\n\n(.*?)\n\n", page, re.DOTALL)
    assert section is not None
    header, _, *lines = section[1].splitlines()
    assert header == f"| | {' | '.join(DEFAULT_GATES)} |"
    for line, (name, values) in zip(lines, rows.items(), strict=True):
        first, *cells = line.strip("| ").split(" | ")
        assert first.startswith(name)
        assert cells == [value if isinstance(value, str) else f"{value:.6g}" for value in values], name
