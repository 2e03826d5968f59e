"""The demo: applies minilm.yaml, embeds the lines of sentences.txt, and prints lines with similar meanings."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from fetch import main as fetch
from fetch import sentences, tokenized

HERE = Path(__file__).resolve().parent
MLO = Path(sys.executable).with_name("mlo")
SHOWN = 10


def mlo(*arguments: str) -> str:
    """Run a command of mlo; its progress goes to the terminal, its standard output is returned."""
    done = subprocess.run([MLO, *arguments], cwd=HERE, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def embedded(texts: list[str]) -> np.ndarray:
    """The embeddings [texts, 384], each of length 1, as the server computes them."""
    with tempfile.TemporaryDirectory() as folder:
        request = Path(folder, "request.npz")
        np.savez(request, **tokenized(texts))
        answer = json.loads(mlo("predict", "minilm", "--input", str(request), "--json"))
    return np.asarray(answer["outputs"]["sentence_embedding"], np.float32)


def main() -> None:
    """Fetch, apply, embed, show."""
    fetch()
    print(mlo("apply", str(HERE / "minilm.yaml"), "--yes"), end="")
    texts = sentences()
    vectors = embedded(texts)
    similar = np.triu(vectors @ vectors.T, k=1)  # of unit vectors: the cosine of each pair, once
    print(f"\nThe most similar pairs of {len(texts)} sentences, as the served model sees them:\n")
    for pair in np.argsort(similar, axis=None)[::-1][:SHOWN]:
        one, other = np.unravel_index(pair, similar.shape)
        print(f"  {similar[one, other]:.2f}  {texts[one]}\n        {texts[other]}")
    print("\nStop the server with: .venv/bin/mlo destroy minilm --yes")


if __name__ == "__main__":
    main()
