"""What a build reads, its digest, and the archive that the engine gets."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from orchestrator.images.context import archive, context_digest, context_files


def _tree(folder: Path) -> Path:
    for name, content in {
        ".dockerignore": "*", "docker/Dockerfile": "FROM scratch", "serving/model": "weights", "values.yaml": "a: b"
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_only_what_the_build_reads_is_in_its_digest(tmp_path: Path) -> None:
    tree = _tree(tmp_path)
    before = context_digest(tree)
    assert [*context_files(tree)] == [".dockerignore", "docker/Dockerfile", "serving/model"]
    (tree / "values.yaml").write_text("a: c")
    os.utime(tree / "serving" / "model", (1, 1))
    assert context_digest(tree) == before
    (tree / "serving" / "model").write_text("other weights")
    assert context_digest(tree) != before


def test_the_archive_is_the_same_for_the_same_files_and_readable_for_every_user(tmp_path: Path) -> None:
    tree = _tree(tmp_path)
    (tree / "serving" / "model").chmod(0o400)
    first = b"".join(archive(context_files(tree)))
    os.utime(tree / "serving" / "model", (1, 1))
    assert b"".join(archive(context_files(tree))) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as archived:
        members = {member.name: member for member in archived}
        assert {member.mode for member in members.values()} == {0o644}
        model = archived.extractfile("serving/model")
        assert model is not None
        assert model.read() == b"weights"
    assert len(first) % 512 == 0
