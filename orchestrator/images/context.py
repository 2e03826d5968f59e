"""The build context: what a build reads of a rendered tree, its digest, and the archive that is sent to the engine."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.store.digest import FileEntry, Manifest, digest_file

__all__ = ["CA_BUNDLE", "WHEELHOUSE", "archive", "context_digest", "context_files"]

WHEELHOUSE = "wheelhouse"
"""The folder of the context with the wheels, where they do not come from an index."""

CA_BUNDLE = "ca-bundle.crt"
"""The file of the context with the authorities that pip trusts in the build, where the spec names one."""

_PARTS = (".dockerignore", "docker", "serving")
_BLOCK = 2**20


def context_files(rendered: Path) -> dict[str, Path]:
    """What the build reads of a rendered tree: POSIX path → file, sorted."""
    found: dict[str, Path] = {}
    for part in _PARTS:
        top = rendered / part
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file():
                found[path.relative_to(rendered).as_posix()] = path
    return dict(sorted(found.items()))


def context_digest(rendered: Path) -> str:
    """The digest of what the build reads of a rendered tree, 64 hex digits; the image's tag is its beginning."""
    return Manifest.of(
        {
            name: FileEntry(digest_file(path), (facts := path.stat()).st_size, bool(facts.st_mode & 0o100))
            for name, path in context_files(rendered).items()
        }
    ).digest


def archive(files: Mapping[str, Path]) -> Iterator[bytes]:
    """A tar archive of these files in pieces, always the same bytes for the same contents.

    Every user may read them, since clusters such as OpenShift choose the user; nobody may write them.

    Raises:
        OSError: a file cannot be read.
    """
    for name, path in files.items():
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            header = tarfile.TarInfo(name)
            header.size, header.mode = facts.st_size, 0o755 if facts.st_mode & 0o100 else 0o644
            yield header.tobuf(tarfile.PAX_FORMAT)
            left = header.size
            while left:
                piece = file.read(min(_BLOCK, left))
                if not piece:
                    raise OSError(f"{path} has become shorter while it was read")
                left -= len(piece)
                yield piece
        yield bytes(-header.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
