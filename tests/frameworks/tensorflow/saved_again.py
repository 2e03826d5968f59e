"""Runs lines of Python that a message names, in the process that has TensorFlow."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from orchestrator.steps.context import StepContext


def run(context: StepContext) -> dict[str, Any]:
    """Step: run the parameter `lines` in its output folder, to which the input `folder` is linked by that name."""
    os.chdir(context.output)
    if "folder" in context.inputs:
        (context.output / "folder").symlink_to(context.inputs["folder"])
    exec(context.params["lines"], {"tf": tf, "keras": keras, "np": np})
    return {}
