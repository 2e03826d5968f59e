"""The architecture of the digits classifier; its weights are in digits.safetensors."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["DigitsNet"]


class DigitsNet(nn.Module):
    """A small CNN that classifies handwritten digits.

    Args:
        channels: feature maps of the first convolution; the second has twice as many.
        hidden: width of the dense layer.
    """

    def __init__(self, channels: int = 32, hidden: int = 96) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * channels * 4 * 4, hidden),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(hidden, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [batch, 10] of images [batch, 1, 8, 8] with grey values in [0, 1]."""
        logits: torch.Tensor = self.classifier(self.features(image))
        return logits
