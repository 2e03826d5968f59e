"""Rewrites PyTorch's zip archives so that the same model gives the same bytes and nothing tells of this machine."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["without_debug_files"]

_HEADER = 30  # bytes of a zip entry's local header before its name (APPNOTE.TXT, 4.3.7)
_ALIGNMENT = 64  # PyTorch aligns tensors so that an archive can be mapped into memory


def without_debug_files(path: Path) -> None:
    """Drop the `.debug_pkl` entries of a TorchScript archive, which map its code to source files, in place.

    Entries stay uncompressed and aligned, in their order; they carry no time.
    """
    smaller = path.with_name(path.name + ".new")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(smaller, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            if entry.filename.endswith(".debug_pkl"):
                continue
            kept = zipfile.ZipInfo(entry.filename, date_time=(1980, 1, 1, 0, 0, 0))
            assert new.fp is not None, "open until the block ends"
            start = new.fp.tell() + _HEADER + len(entry.filename.encode()) + 4
            padding = -start % _ALIGNMENT
            kept.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
            new.writestr(kept, old.read(entry))
    smaller.replace(path)
