"""Checks the digests of the model's files, so that exactly the verified model is served."""

from __future__ import annotations

import hashlib

from .config import ModelConfig
from .errors import BAD_MODEL, StartError

__all__ = ["check_digests"]


def check_digests(model: ModelConfig) -> None:
    """Check that the model's files have the digests in server.json.

    Raises:
        StartError: `BAD_MODEL`.
    """
    for path, expected in {model.file: model.sha256, **model.files}.items():
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise StartError(BAD_MODEL, f"{path}: cannot be read: {error.strerror}") from error
        if digest != expected:
            raise StartError(BAD_MODEL, f"{path}: its sha256 is {digest}, but server.json expects {expected}")
