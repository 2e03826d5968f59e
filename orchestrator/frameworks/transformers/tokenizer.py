"""Loads the tokenizer of a Transformers folder, which is no part of what is served: it makes samples, and names inputs."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.transformers.library import transformers

if TYPE_CHECKING:
    from orchestrator.frameworks.transformers.folder import ModelFolder

__all__ = ["load_tokenizer"]


def load_tokenizer(folder: ModelFolder) -> Any:
    """The tokenizer; None where there is none that loads without code of its own."""
    if not folder.tokenizer or "auto_map" in folder.tokenizer:
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(folder.path), local_files_only=True, trust_remote_code=False
        )
    # Its files come from others, and each class reads them in its way; the model does not need it.
    except Exception:  # noqa: BLE001 - the log has it, and what is done without it is noted
        traceback.print_exc(file=sys.stderr)
        return None
