"""Train a classifier of tumours on scikit-learn's breast cancer data, and export it as an ONNX model.

    python specs/onnx/make.py

writes tumours.onnx with its weights in tumours.onnx.data beside it, and samples.npz (held-out rows with their labels).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).parent
SEED = 0
EPOCHS = 200
HELD_OUT = 171
LEAST_ACCURACY = 0.94


class Tumours(nn.Module):
    """From 30 measures of cell nuclei, in their own units, to the probabilities of malignant and benign."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.layers = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, measures: torch.Tensor) -> torch.Tensor:
        """Logits float32 [n, 2] of measures float32 [n, 30]."""
        return self.layers((measures - self.mean) / self.scale)


class Probabilities(nn.Module):
    """The exported model: a classifier's logits as probabilities."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, measures: torch.Tensor) -> torch.Tensor:
        """Probabilities float32 [n, 2]."""
        return self.model(measures).softmax(dim=1)


def train(measures: torch.Tensor, labels: torch.Tensor) -> Tumours:
    """A model that was fitted to all rows."""
    model = Tumours(measures.mean(0), measures.std(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    loss_of = nn.CrossEntropyLoss()
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        loss_of(model(measures), labels).backward()
        optimizer.step()
    return model.eval()


def export(model: nn.Module, measures: torch.Tensor) -> None:
    """Write the model for batches of any size."""
    program = torch.onnx.export(
        model,
        (measures,),
        input_names=["measures"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
    )
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces with the paths of this machine
    data = HERE / "tumours.onnx.data"
    data.unlink(missing_ok=True)  # an existing file would be appended to
    onnx.save(proto, HERE / "tumours.onnx", save_as_external_data=True, location=data.name, size_threshold=1024)


def main() -> int:
    """Train, print the quality of the model, and write the files if it is good enough."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(mode=True)
    data = load_breast_cancer()
    measures, labels = data.data.astype(np.float32), data.target.astype(np.int64)
    train_rows, test_rows, train_labels, test_labels = train_test_split(
        measures, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels
    )
    model = Probabilities(train(torch.from_numpy(train_rows), torch.from_numpy(train_labels)))
    with torch.inference_mode():
        guesses = model(torch.from_numpy(test_rows)).argmax(1).numpy()
    accuracy = float((guesses == test_labels).mean())
    print(f"test accuracy {accuracy:.4f} on {len(test_labels)} held-out rows")
    if accuracy < LEAST_ACCURACY:
        print(f"expected at least {LEAST_ACCURACY}; nothing written", file=sys.stderr)
        return 1
    export(model, torch.from_numpy(test_rows[:2]))
    np.savez_compressed(HERE / "samples.npz", measures=test_rows, labels=test_labels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
