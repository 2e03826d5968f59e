"""The models that the tests convert: what a user's own module could hold."""
# mypy: disable-error-code="misc,no-any-return"
# PyTorch is not followed by mypy, so its classes and results are Any here.

from __future__ import annotations

import torch
from torch import nn


class Cnn(nn.Module):
    """Images to scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(image))).flatten(1))


class TwoInTwoOut(nn.Module):
    """Token ids and a mask to token vectors and a score; two dynamic dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.score = nn.Linear(8, 1)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.embed(ids) * mask.unsqueeze(-1)
        return tokens, self.score(tokens.sum(1))


class Tagger(nn.Module):
    """Token ids and a mask to scores for each token, with PyTorch's encoder as it is by default: nested tensors leave padding 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        first = torch.arange(ids.shape[1]) == 0  # an empty text is one token, since nested tensors cannot be empty
        return self.head(self.encoder(self.embed(ids), src_key_padding_mask=~(mask | first)))


class ConstantPaddingTagger(Tagger):
    """The same, with a constant at padded positions."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = super().forward(ids, mask)
        return torch.where(mask.unsqueeze(-1) == 0, torch.zeros_like(scores), scores)


class InPlace(nn.Module):
    """Standardises its input in place, as code for training saves memory."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.sub_(0.7).div_(2.5)
        return self.linear(torch.tanh(x))


class FixedBatch(nn.Module):
    """Takes its batch size for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * (1 if int(x.shape[0]) < 3 else 2)


class BranchOnValues(nn.Module):
    """Takes one way or the other by the values of its input: tracing fixes one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if bool(x.sum() > 0):
            return y * 100
        return y - 50


class BranchInNumpy(BranchOnValues):
    """As above, in code that cannot be scripted either."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if x.detach().numpy().sum() > 0:
            return y * 100
        return y - 50


class BranchOnRange(nn.Module):
    """Takes its input as 0 to 1 or as 0 to 255; random samples lie far below 255."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.amax() > 30:
            x = x / 255.0
        return self.linear(x)


class BranchInAPart(nn.Module):
    """As above, in a part of a module that cannot be scripted as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.part = BranchOnRange()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.part(*inputs)


class BranchOnEqual(BranchOnValues):
    """Asks a question that the tracer does not warn of, in code that cannot be scripted."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        y = self.linear(inputs[0])
        if torch.equal(inputs[0], inputs[0].clamp(max=30)):
            return y * 100
        return y


class NumberOfValues(BranchOnValues):
    """Makes a number of its values, which torch.export can express and a trace has as a constant."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(inputs[0]) * inputs[0].max().item()


class ChecksOnly(BranchOnValues):
    """Raises for inputs that it does not take, in code that cannot be scripted."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if inputs[0].isnan().any():
            raise ValueError("NaN")
        assert inputs[0].shape[0] > 0, "no rows"
        return self.linear(inputs[0])


class BranchOnParity(BranchOnValues):
    """Something else for an odd number of rows, and a trace of it sees sizes as plain numbers."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        rows = torch.zeros(1).expand(len(inputs[0])).numpy().size
        return self.linear(inputs[0]) * (1 if rows % 2 == 0 or rows == 1 else 2)


class Sorted(nn.Module):
    """Uses an operator that ONNX has no translation of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(self.linear(x))


class Attention(nn.Module):
    """No convolution: matrix products and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        weights = torch.softmax(q @ k.transpose(1, 2) / 4.0, -1)
        return self.out(weights @ v)


class Pyramid(nn.Module):
    """Halves an image three times and adds it to itself again, as detectors do: only multiples of 8 fit."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(3 if level == 0 else 4, 4, 3, 2, 1) for level in range(3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        levels = [image]
        for down in self.down:
            levels.append(torch.relu(down(levels[-1])))
        x = levels.pop()
        while len(levels) > 1:
            x = nn.functional.interpolate(x, scale_factor=2.0) + levels.pop()
        return nn.functional.interpolate(x, scale_factor=2.0)


class NoBatch(nn.Module):
    """One signal of any length at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": self.linear(signal).mean(0), "top": self.linear(signal).argmax(1)}


class SingleNumbers(nn.Module):
    """Takes a gain and a step besides its rows, and answers with a sum besides them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, gain: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.linear(x * gain + step / 16)
        return y, y.sum()


class Recurrent(nn.Module):
    """A sequence of any length to scores; torch.export unrolls the LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class NamesFloat32(nn.Module):
    """Turns a tensor into float32 whatever the weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(x).float())


class FewRows(nn.Module):
    """Does something else for more than eight rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if x.shape[0] <= 8 else x
