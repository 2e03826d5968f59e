"""Tells whether the parts of a SavedModel folder are those that were saved together, by its fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["fingerprint_notes"]

_FILE = "fingerprint.pb"


def fingerprint_notes(folder: Path) -> list[str]:
    """What the fingerprint says against the folder, a sentence each; nothing where there is none, as before TensorFlow 2.11.

    It is no proof of anything, since it can be written by anybody, and TensorFlow loads the model in any case: a folder that
    was edited, or put together from two, is something to know and not an error.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef
    from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

    file = folder / _FILE
    if not file.is_file():
        return []
    written, now = FingerprintDef(), FingerprintDef()
    try:
        written.ParseFromString(file.read_bytes())
        now.ParseFromString(fingerprinting.CreateFingerprintDef(str(folder)))
    except (DecodeError, fingerprinting.FingerprintException) as error:
        return [f"its {_FILE} cannot be read: {type(error).__name__}"]
    if written.version.producer != now.version.producer:  # another TensorFlow counts in another way
        return []
    parts = {
        "the graph": written.graph_def_program_hash != now.graph_def_program_hash,
        "the signatures": written.signature_def_hash != now.signature_def_hash,
        "the variables": written.checkpoint_hash != now.checkpoint_hash,
    }
    others = [part for part, differs in parts.items() if differs]
    return (
        [
            f"{' and '.join(others)} in the folder {'is' if others == ['the graph'] else 'are'} not what its {_FILE} was made of"
        ]
        if others
        else []
    )
