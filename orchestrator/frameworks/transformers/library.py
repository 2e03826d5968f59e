"""Imports the Transformers library without network access and without other frameworks."""

from __future__ import annotations

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    USE_TF="0",
    USE_FLAX="0",
    TOKENIZERS_PARALLELISM="false",
)

import transformers  # the library reads its environment when it is imported
from transformers.models.auto import configuration_auto, modeling_auto

__all__ = ["configuration_auto", "modeling_auto", "transformers"]

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
