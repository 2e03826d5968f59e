"""The JSON Schemas of all documents, as in `docs/schemas/documents/`: `python -m orchestrator.artifacts.schemas` writes them."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.artifacts.container import ContainerSettings
from orchestrator.artifacts.decision import Decision
from orchestrator.artifacts.document import Document
from orchestrator.artifacts.fates import Fates
from orchestrator.artifacts.imported import Imported
from orchestrator.artifacts.inspection import Inspection
from orchestrator.artifacts.probed import Probed
from orchestrator.artifacts.round_report import RoundReport
from orchestrator.artifacts.runtime_report import RuntimeReport
from orchestrator.artifacts.server_report import ServerReport
from orchestrator.artifacts.sizing import Sizing
from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.artifacts.verdict import Verdict
from orchestrator.artifacts.winner import Winner

__all__ = ["DOCUMENTS", "schema_texts"]

DOCUMENTS: tuple[type[Document], ...] = (
    Inspection,
    Probed,
    Imported,
    VariantFacts,
    Verdict,
    RoundReport,
    RuntimeReport,
    ServerReport,
    Fates,
    Decision,
    Winner,
    Sizing,
    ContainerSettings,
)
"""In the order in which steps write them."""

_FOLDER = Path(__file__).parents[2] / "docs" / "schemas" / "documents"


def schema_texts() -> dict[str, str]:
    """Name of the file → its content, for each document."""
    return {
        f"{document.NAME}.schema.json": json.dumps(document.json_schema(), indent=2, ensure_ascii=False) + "\n"
        for document in DOCUMENTS
    }


if __name__ == "__main__":
    _FOLDER.mkdir(exist_ok=True)
    for name, text in schema_texts().items():
        (_FOLDER / name).write_text(text, encoding="utf-8")
