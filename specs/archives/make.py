"""Make a TorchScript archive and an exported program of the digits model.

    python specs/archives/make.py

writes digits.pt and digits.pt2 from the weights in ../digits.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parent / "digits"
sys.path.insert(0, str(DIGITS))

from digits_model import DigitsNet  # noqa: E402 - it is in the folder of the other example


def main() -> None:
    """Load the weights, write both archives."""
    model = DigitsNet().eval()
    model.load_state_dict(load_file(DIGITS / "digits.safetensors"))
    images = torch.zeros(2, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        torch.jit.script(model).save(str(HERE / "digits.pt"))
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(model, (images,), dynamic_shapes=({0: batch},)), HERE / "digits.pt2")
    print("digits.pt and digits.pt2: written")


if __name__ == "__main__":
    main()
