"""What the README says of sources, formats and backends is what the tables say."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.backends.table import backends_of
from orchestrator.optimize.formats import FORMATS, Unsupported
from orchestrator.optimize.sources import SOURCES

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
