"""Train the digits classifier on scikit-learn's digits within seconds, and write its weights and samples.

    python specs/digits/train.py

writes digits.safetensors (the weights) and digits.npz (held-out images with their labels).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from digits_model import DigitsNet
from safetensors.torch import save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).parent
SEED = 0
EPOCHS = 30
BATCH = 64
HELD_OUT = 256
LEAST_ACCURACY = 0.97


def train(images: torch.Tensor, labels: torch.Tensor) -> DigitsNet:
    """A model that was fitted to images float32 [n, 1, 8, 8] and labels int64 [n], in evaluation mode."""
    model = DigitsNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    loss_of = nn.CrossEntropyLoss()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss_of(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    return model


def main() -> int:
    """Train, print the quality of the model, and write both files if it is good enough."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(mode=True)
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)  # grey values of 0 to 16 become [0, 1]
    labels = digits.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels
    )

    model = train(torch.from_numpy(train_images), torch.from_numpy(train_labels))
    with torch.inference_mode():
        guesses = model(torch.from_numpy(test_images)).argmax(1).numpy()
    accuracy = float((guesses == test_labels).mean())
    print(f"test accuracy {accuracy:.4f} on {len(test_labels)} held-out images")
    if accuracy < LEAST_ACCURACY:
        print(f"expected at least {LEAST_ACCURACY}; nothing written", file=sys.stderr)
        return 1

    (HERE / "digits.safetensors").write_bytes(save(model.state_dict()))
    np.savez_compressed(HERE / "digits.npz", image=test_images, labels=test_labels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
