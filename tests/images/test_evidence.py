"""What the store knows of images that were built from here."""

from __future__ import annotations

from pathlib import Path

from orchestrator.images.evidence import Sizes, built_images, image_of_decision, provenance, write_evidence
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


def test_the_image_of_a_decision_is_the_latest_that_was_built_of_its_winner(tmp_path: Path) -> None:
    def built(number: str, decision: str) -> Image:
        image = Image(name=f"digits:{number}", id=f"sha256:{number * 64}", platform="linux/amd64")
        labels = {"mlo.decision-digest": f"sha256:{decision}"}
        statement = provenance(
            image, context="c", base="b", base_digest="sha256:d", labels=labels, engine="20", network=None
        )
        write_evidence(tmp_path, image, Sizes(530_000_000, 369_000_000, 100_000), b"{}", statement)
        return image

    built("a", "one")
    built("b", "another")
    latest = built("c", "one")
    known = image_of_decision(tmp_path, "one")
    assert known is not None
    assert known.image == latest
    assert known.sizes.text == "530 MB: the base 369, the server 161, the model 0.1"
    assert image_of_decision(tmp_path, "none") is None
