# mypy: disable-error-code="misc, override"
"""Models as users write them, the good and the bad; a spec's folder in the tests of the import step."""

from __future__ import annotations

import urllib.request
from collections import namedtuple
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from torch import nn

NOT_CALLABLE = 3
Pair = namedtuple("Pair", ["first", "second"])  # noqa: PYI024 - what forward returns in user code


class Linear(nn.Module):
    """Rows [batch, 4] to [batch, 3]."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


BUILT = Linear()


class EvenLengths(nn.Module):
    """Pairs of values, so that an odd number of them has no meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] % 2:
            raise ValueError("an odd length")
        return self.linear(x.reshape(x.shape[0], -1, 2)).sum(1)


class Embedded(nn.Module):
    """Words of a vocabulary of 50 and their kinds, 3 of them, to [batch, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 4)
        self.kinds = nn.Embedding(3, 4)

    def forward(self, words: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        return (self.words(words.long()) + self.kinds(kinds.reshape(-1, 2))).sum(1)


class Hours(nn.Module):
    """Minutes [batch, 2] to the hours that they lie in, which must not be before the last year's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, minutes: torch.Tensor) -> torch.Tensor:
        if bool((minutes < -525_600).any()):
            raise ValueError("minutes of the year before last")
        return torch.div(minutes, 60, rounding_mode="floor") * self.scale


class Nested(nn.Module):
    """The same below a name, as checkpoints of wrappers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Linear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class Tied(nn.Module):
    """Two names for one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


class WithDropout(Linear):
    """Dropout as it should be: off in evaluation mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.linear(x), 0.5, training=self.training)


class DropoutLeftOn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = WithDropoutAlways()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + 1


class WithDropoutAlways(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.linear(x), 0.5, training=True)


class Noisy(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + torch.randn(3)


class BatchStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x))


class BatchStatisticsOfImages(nn.Module):
    """With several pixels for each row, the statistics of a single row exist too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(image)


class BackInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.norm.train()
        return self.norm(image)


class CentredOverBatch(Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=0)
        return self.linear(centred)


class ReadsForwards(nn.Module):
    """Takes [time, 1, 4], as PyTorch's recurrent layers do by default; the first row depends on no other."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read, _ = self.lstm(x)
        return read


class Chaotic(nn.Module):
    """A row's sums round in another way in a batch of another size, which thirty steps of the logistic map amplify to anything."""

    def __init__(self, steps: int = 30, ids: bool = False, mix: str = "") -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4) if ids else None
        self.linear = nn.Linear(4, 4)
        self.steps, self.mix = steps, mix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.table is None else self.table(x).mean(1)
        x = torch.sigmoid(self.linear(x))
        x = (x + x.shape[0]) - x.shape[0]
        if self.mix == "statistics":
            x = torch.sigmoid(x + 1e-2 * x.mean(0))
        elif self.mix == "size":
            x = x * (1 + 1e-3 / x.shape[0]) / 1.001
        for _ in range(self.steps):
            x = 3.9 * x * (1 - x)
        return x


class Counting(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(x) + self.calls


class InstanceNormed(nn.Module):
    """Normalizes each row by itself, which is allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(image)


class Tokens(nn.Module):
    """Ids [batch, seq] and a mask to [batch, seq, 5] and [batch, half of seq]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 5)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.embed(ids) * mask.unsqueeze(-1)
        return hidden, hidden[:, ::2].sum(-1)


class AtMostEight(nn.Module):
    """Takes no more than eight steps."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.arange(8.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.position[torch.arange(x.shape[1])]


class Returns(Linear):
    """Returns what `what` says."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: torch.Tensor) -> Any:
        y = self.linear(x)
        return {
            "dict": {"probs": y.softmax(1), "logits": y},
            "list": [y, y + 1],
            "named": Pair(y, {"deep": y + 1}),
            "none": (y, None),
            "float": (y, 0.5),
            "object": object(),
            "no batch": y.sum(),
            "pooled": y.mean(1, keepdim=True).T,
            "nan": torch.where(x[:, :3] > 0, torch.nan, y),
            "nan at 3": torch.where(x[:, :3] >= 3, torch.nan, y),
            "double": y.double(),
            "bfloat16": y.bfloat16(),
            "classes": y.argmax(1),
        }[self.what]


class KeywordOnly(Linear):
    def forward(self, *, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class TwoInputs(Linear):
    def forward(self, x: torch.Tensor, scale: torch.Tensor, bias: float = 0.0) -> torch.Tensor:
        return self.linear(x) * scale + bias


class NoBatch(nn.Module):
    """A signal [samples] to one number; no batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        return (signal * self.gain).mean()


class Picky(Linear):
    """Refuses zeros, as a length of 0 is refused."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.any():
            raise ValueError("nothing to see")
        return self.linear(x)


def downloading() -> torch.nn.Module:
    urllib.request.urlopen("http://weights.invalid/linear.pt")
    raise AssertionError("such a name does not exist")


def raising(depth: int = 1) -> nn.Module:
    raise RuntimeError(f"no weights at depth {depth}")


def not_a_model() -> dict[str, int]:
    return {}


class Shifted(nn.Module):
    """Keeps plain settings in its state, by PyTorch's own way for it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.settings: dict[str, object] = {"shift": 0.0}

    def get_extra_state(self) -> dict[str, object]:
        return self.settings

    def set_extra_state(self, state: dict[str, object]) -> None:
        self.settings = {"shift": state["shift"]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x + self.settings["shift"])


class Versioned(nn.Module):
    """Stores its weight with the other sign since its version 2, and reads both."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).reshape(3, 4))

    def _load_from_state_dict(
        self, state_dict: dict[str, torch.Tensor], prefix: str, local_metadata: dict[str, int], *others: object
    ) -> None:
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = -state_dict[f"{prefix}weight"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T


class Parts(nn.Module):
    """Two parts, one of which has a part of its own with a wrapper's name."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Versioned()
        self.second = nn.Module()
        self.second.module = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second.module(self.first(x))
