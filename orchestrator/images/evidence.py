"""What is known of a built image, kept in the store: its size, its packages, and how it came to be."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.store.atomic import pretty_json, write_atomic
from orchestrator.store.state import Image

__all__ = [
    "Evidence",
    "Sizes",
    "built_images",
    "image_of_decision",
    "provenance",
    "read_evidence",
    "record_push",
    "sbom_bytes",
    "sha256_label",
    "write_evidence",
]

_MEGABYTE = 1e6
_SBOM, _PROVENANCE, _FACTS = "sbom.cdx.json", "provenance.json", "image.json"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of an image, uncompressed.

    Attributes:
        total: of all layers.
        base: of the base image.
        model: of the folder that the server reads: model and configuration.
    """

    total: int
    base: int
    model: int

    @property
    def above_base(self) -> int:
        """What the server and its packages add to the base; without the model."""
        return self.total - self.base - self.model

    @property
    def text(self) -> str:
        """In words, such as `530 MB: the base 369, the server 161, the model 0.1`."""
        total, base, server, model = (size / _MEGABYTE for size in (self.total, self.base, self.above_base, self.model))
        return f"{total:.0f} MB: the base {base:.0f}, the server {server:.0f}, the model {model:.1f}"

    def as_json(self) -> dict[str, int]:
        """For `mlo build --json` and `mlo status --json`."""
        return {"total": self.total, "base": self.base, "model": self.model, "above_base": self.above_base}


@dataclass(frozen=True, slots=True)
class Evidence:
    """The files about one image.

    Attributes:
        sbom: its packages, CycloneDX.
        provenance: what it was built from and by, an in-toto statement with SLSA's predicate.
    """

    image: Image
    sizes: Sizes
    sbom: Path
    provenance: Path


def sbom_bytes(document: dict[str, Any]) -> bytes:
    """The file of a CycloneDX document; its sha256 is in the image's label."""
    return pretty_json(document)


def provenance(
    image: Image, *, context: str, base: str, base_digest: str, labels: dict[str, str], engine: str, network: str | None
) -> dict[str, Any]:
    """The statement about an image that was just built.

    Args:
        image: the subject.
        context: digest of what the build read, in hex.
        base: name of the base image.
        base_digest: `sha256:...`, of its manifest if the engine knows it, else of its configuration.
        labels: of the image.
        engine: version of the Docker Engine.
        network: of the build's commands; None for the default.
    """
    parameters: dict[str, str] = {
        "context": f"sha256:{context}",
        "platform": image.platform,
        "network": network or "default",
    }
    parameters |= {name: labels[name] for name in ("mlo.decision-digest", "mlo.model-digest") if name in labels}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": image.name, "digest": {"sha256": (image.digest or image.id).removeprefix("sha256:")}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:mlo:image:1",
                "externalParameters": parameters,
                "resolvedDependencies": [
                    {"uri": f"docker-image:{base}", "digest": {"sha256": base_digest.removeprefix("sha256:")}}
                ],
            },
            "runDetails": {"builder": {"id": "urn:mlo", "version": {"mlo": __version__, "engine": engine}}},
        },
    }


def write_evidence(folder: Path, image: Image, sizes: Sizes, sbom: bytes, statement: dict[str, Any]) -> Evidence:
    """Keep it, replacing what was there.

    Args:
        folder: of all images.
        image: the one that it is about.
        sizes: of that image.
        sbom: the file.
        statement: as `provenance` makes it.
    """
    own = _own(folder, image)
    own.mkdir(parents=True, exist_ok=True)
    write_atomic(own / _SBOM, sbom)
    write_atomic(own / _PROVENANCE, pretty_json(statement))
    # The last, since it is what says that the others are there.
    write_atomic(own / _FACTS, pretty_json({"image": image.model_dump(mode="json"), "sizes": sizes.as_json()}))
    return Evidence(image, sizes, own / _SBOM, own / _PROVENANCE)


def read_evidence(folder: Path, image: Image) -> Evidence | None:
    """What is known of an image; None if it was not built from here."""
    own = _own(folder, image)
    try:
        facts = json.loads((own / _FACTS).read_bytes())
    except FileNotFoundError:
        return None
    sizes = {name: int(facts["sizes"][name]) for name in ("total", "base", "model")}
    return Evidence(Image.model_validate(facts["image"]), Sizes(**sizes), own / _SBOM, own / _PROVENANCE)


def built_images(folder: Path, deployment: str) -> list[Image]:
    """The images of a deployment that were built from here, also those that were never deployed.

    Args:
        folder: of all images.
        deployment: its name, which is that of their repository.
    """
    images = [
        Image.model_validate(json.loads(file.read_bytes())["image"]) for file in sorted(folder.glob(f"*/{_FACTS}"))
    ]
    return [image for image in images if image.name.rpartition(":")[0].rpartition("/")[2] == deployment]


def image_of_decision(folder: Path, decision_digest: str) -> Evidence | None:
    """The latest image that was built of a decision's winner; None if none was built from here.

    Args:
        folder: of all images.
        decision_digest: sha256 of its winner.json, in hex, as images have it in a label.
    """
    label = f"sha256:{decision_digest}"
    made = [
        file
        for file in folder.glob(f"*/{_PROVENANCE}")
        if (file.parent / _FACTS).exists() and _parameters(file).get("mlo.decision-digest") == label
    ]
    if not made:
        return None
    newest = max(made, key=lambda file: file.stat().st_mtime_ns)
    image = Image.model_validate(json.loads((newest.parent / _FACTS).read_bytes())["image"])
    return read_evidence(folder, image)


def _parameters(file: Path) -> dict[str, str]:
    """The parameters of the build that a provenance tells of."""
    statement = json.loads(file.read_bytes())
    return dict(statement["predicate"]["buildDefinition"]["externalParameters"])


def record_push(folder: Path, image: Image) -> None:
    """Let the files name the digest by which the registry knows the image."""
    if (known := read_evidence(folder, image)) is None:
        return
    statement = json.loads(known.provenance.read_bytes())
    assert image.digest is not None, "a pushed image has one"
    statement["subject"] = [{"name": image.name, "digest": {"sha256": image.digest.removeprefix("sha256:")}}]
    write_evidence(folder, image, known.sizes, known.sbom.read_bytes(), statement)


def _own(folder: Path, image: Image) -> Path:
    return folder / image.id.removeprefix("sha256:")


def sha256_label(data: bytes) -> str:
    """The digest of a file as labels write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
