"""The two networks in PyTorch, and what they are asked: every way of running them starts from these.

`resnet50` is also the factory of mlo's spec, which has a copy of this file beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, ResNetConfig, ResNetForImageClassification
from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]

IMAGES, IMAGE = 64, (3, 224, 224)
BRANCH = 0.2
"""The scale of a residual branch in ResNet-50, by which its last normalization multiplies.

A branch that starts at nothing trains best (Goyal et al. 2017, 5.1), and one of a trained network stays small. With the scale of 1 that
a new network has, each of the 16 blocks doubles the power of what it adds to: rounding errors grow with depth until no
8-bit number format could tell the answers of two images apart, which says something about random weights and nothing about a tool.
"""
ASKED = 12
"""Sentences that a cycle of calls takes, from the shortest to the longest."""


class ResNet50(torch.nn.Module):
    """The network of He et al. 2015 with one tensor in and one out: [rows, 3, 224, 224] → [rows, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ResNetForImageClassification(ResNetConfig(num_labels=1000))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The logits."""
        logits: torch.Tensor = self.network(image, return_dict=False)[0]
        return logits


def resnet50() -> ResNet50:
    """The network with random weights, not yet calibrated."""
    torch.manual_seed(0)
    return ResNet50()


class SentenceEmbedding(torch.nn.Module):
    """MiniLM as its folder describes it: the mean of the tokens' states, with a length of 1: [rows, tokens] → [rows, 384]."""

    def __init__(self, folder: Path, attention: str) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """The embeddings."""
        states = self.encoder(input_ids, attention_mask, token_type_ids, return_dict=False)[0]
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, p=2.0, dim=1)


@dataclass(frozen=True)
class Network:
    """A network in its folder.

    Attributes:
        inputs, output: the names of its tensors.
    """

    name: str
    folder: Path
    inputs: tuple[str, ...]
    output: str

    def module(self, attention: str = "sdpa") -> torch.nn.Module:
        """The network, ready for calls.

        Args:
            attention: of a transformer: PyTorch's operator, or `eager` for its single steps.
        """
        if self.name == "minilm":
            return SentenceEmbedding(self.folder / "model", attention).eval()
        module = resnet50()
        module.load_state_dict(load_file(self.folder / "resnet50.safetensors"))
        return module.eval()

    def rows(self) -> list[Inputs]:
        """All samples, one call each: a sentence has as many tokens as it needs."""
        with np.load(self.folder / "samples.npz", allow_pickle=False) as samples:
            arrays = {name: samples[name] for name in self.inputs}
        rows = [
            {name: array[number : number + 1] for name, array in arrays.items()}
            for number in range(self._count(arrays))
        ]
        if self.name != "minilm":
            return rows
        return [{name: array[:, : int(row["attention_mask"].sum())] for name, array in row.items()} for row in rows]

    def calibration(self) -> list[Inputs]:
        """Every second sample, as mlo takes them."""
        return self.rows()[::2]

    def asked(self) -> list[Inputs]:
        """The calls of a cycle that is timed: an image, or sentences of all lengths."""
        rows = self.rows()[1::2]
        if self.name != "minilm":
            return rows[:1]
        rows.sort(key=lambda row: row["input_ids"].shape[1])
        return [rows[round(place)] for place in np.linspace(0, len(rows) - 1, ASKED)]

    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs to trace or export the network with."""
        row = self.asked()[-1]
        return tuple(torch.from_numpy(row[name].copy()) for name in self.inputs)

    @staticmethod
    def _count(arrays: Inputs) -> int:
        return len(next(iter(arrays.values())))


INPUTS = {"resnet50": ("image",), "minilm": ("input_ids", "attention_mask", "token_type_ids")}
OUTPUTS = {"resnet50": "logits", "minilm": "sentence_embedding"}


def network(name: str, folder: Path) -> Network:
    """The network of this name, whose files lie in the folder."""
    return Network(name, folder, INPUTS[name], OUTPUTS[name])


def write_resnet50(folder: Path) -> None:
    """Write the samples and the weights: random, with small residual branches and the normalizations' statistics of the samples.

    Without these, activations would grow with every layer. The classifier's bias is what makes the mean of its logits zero, so that
    what is compared is what tells one image from another.
    """
    images = torch.from_numpy(np.concatenate(list(_images())))
    module = resnet50()
    for each in module.modules():
        if isinstance(each, ResNetBottleNeckLayer):
            torch.nn.init.constant_(each.layer[-1].normalization.weight, BRANCH)
    normalizations = [each for each in module.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    for each in normalizations:
        each.momentum = None  # the mean of all batches
    with torch.inference_mode():
        module.train()
        for batch in images[::2].split(8):
            module(batch)
        module.eval()
        bias = module.network.classifier[1].bias
        bias -= torch.cat([module(batch) for batch in images[::2].split(8)]).mean(0)
    save_file(
        {name: value.contiguous() for name, value in module.state_dict().items()}, folder / "resnet50.safetensors"
    )
    np.savez(folder / "samples.npz", image=images.numpy())


def _images() -> Iterator[Array]:
    """Noise of several scales, as images have it, and not that of single points, which looks the same everywhere."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(IMAGES):
        image = torch.zeros(1, *IMAGE)
        for size in (4, 8, 16, 56, 224):
            noise = torch.randn(1, IMAGE[0], size, size, generator=draw) * torch.rand(1, generator=draw)
            image += torch.nn.functional.interpolate(noise, IMAGE[1:], mode="bilinear")
        yield ((image - image.mean()) / image.std()).numpy()
