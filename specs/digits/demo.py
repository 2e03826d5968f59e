"""The demo: applies digits.yaml, or another spec of this folder, then sends images from the data set to its server.

`demo.py [SPEC NAME]`: a spec with the same model, and the name of its deployment.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
MLO = Path(sys.executable).with_name("mlo")
SHADES = " .:-=+*#%@"
SHOWN = 12


def mlo(*arguments: str) -> str:
    """Run a command of mlo; its progress goes to the terminal, its standard output is returned."""
    # Ctrl-C reaches mlo too, which ends its steps and says what is kept: that is waited for.
    usual = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        done = subprocess.run([MLO, *arguments], cwd=HERE, stdout=subprocess.PIPE, text=True, check=False)
    finally:
        signal.signal(signal.SIGINT, usual)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def drawn(image: np.ndarray) -> list[str]:
    """An 8x8 image of values from 0 to 1 as eight lines of text."""
    levels = (image * (len(SHADES) - 1)).round().astype(int)
    return ["".join(SHADES[level] * 2 for level in row) for row in levels]


def main(file: str = "digits.yaml", name: str = "digits") -> None:
    """Apply, predict, show."""
    spec = str(HERE / file)
    told = mlo("apply", spec, "--yes")
    if "nothing to deploy" in told:  # show the earlier decision again
        print(mlo("explain", spec))
    print(told, end="")

    with np.load(HERE / "digits.npz") as samples:
        images, labels = samples["image"], samples["labels"]
    with tempfile.TemporaryDirectory() as folder:
        request = Path(folder, "images.npz")
        np.savez(request, image=images)
        answer = json.loads(mlo("predict", name, "--input", str(request), "--json"))
    predicted = np.asarray(answer["outputs"]["logits"]).argmax(axis=1)

    print(f"\nThe first {SHOWN} of {len(images)} images that the model was not trained on, as the server reads them:\n")
    for start in range(0, SHOWN, 4):
        for line in zip(*(drawn(images[i, 0]) for i in range(start, start + 4)), strict=True):
            print("  " + "   ".join(line))
        said = (f"predicted {predicted[i]}, label {labels[i]}" for i in range(start, start + 4))
        print("  " + "   ".join(text.ljust(16)[:24] for text in said) + "\n")
    right = int((predicted == labels).sum())
    print(f"{right} of {len(labels)} right ({right / len(labels):.1%}).")
    print(f"Stop the server with: .venv/bin/mlo destroy {name} --yes")


if __name__ == "__main__":
    main(*sys.argv[1:3])
