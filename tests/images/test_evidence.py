"""What the store knows of images that were built from here."""

from __future__ import annotations

from pathlib import Path

from orchestrator.images.evidence import Sizes, built_images, write_evidence
from orchestrator.store.state import Image


def test_the_images_of_a_deployment_are_known_whatever_their_registry_and_whether_they_were_deployed(
    tmp_path: Path,
) -> None:
    def known(name: str, number: str) -> Image:
        image = Image(name=name, id=f"sha256:{number * 64}", platform="linux/amd64")
        write_evidence(tmp_path, image, Sizes(3, 1, 1), b"{}", {})
        return image

    here = known("digits:1", "a")
    there = known("127.0.0.1:5000/team/digits:2", "b")
    known("other-digits:1", "c")
    known("digits/other:1", "d")
    assert built_images(tmp_path, "digits") == [here, there]
    assert built_images(tmp_path / "none", "digits") == []
