"""Layers as Keras 2 wrote them: with settings that Keras 3 no longer knows, and that have no effect at their defaults.

Keras 3 refuses a layer with an unknown setting. These were written for every such layer, used or not; one with another value
than the default stays refused by Keras itself.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.tensorflow.library import keras

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["without_unknown_settings"]

_WITHOUT_EFFECT: Mapping[str, tuple[tuple[str, ...], object]] = MappingProxyType(
    {
        "groups": (
            (
                "DepthwiseConv1D",
                "DepthwiseConv2D",
                "SeparableConv1D",
                "SeparableConv2D",
                "Conv1DTranspose",
                "Conv2DTranspose",
                "Conv3DTranspose",
            ),
            1,
        ),
        "time_major": (("SimpleRNN", "LSTM", "GRU", "RNN"), False),
    }
)
"""Setting → the layers that Keras 3 has without it, and the default."""


@contextmanager
def without_unknown_settings() -> Iterator[None]:
    """While it lasts, Keras' own layers are read without these settings, wherever in a model they are.

    The layers' `from_config` is replaced, since a mapping of custom objects does not reach layers within others.
    """
    with ExitStack() as stack:
        for setting, (names, default) in _WITHOUT_EFFECT.items():
            for name in names:
                layer = getattr(keras.layers, name)
                if setting not in _settings(layer):
                    stack.enter_context(_read_without(layer, setting, default))
        yield


def _settings(layer: type[Any]) -> frozenset[str]:
    code = layer.__init__.__code__
    return frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


@contextmanager
def _read_without(layer: type[Any], setting: str, default: object) -> Iterator[None]:
    own, had = layer.from_config, "from_config" in vars(layer)

    def from_config(cls: type[Any], config: dict[str, Any], /, **more: Any) -> Any:
        if setting in config and config[setting] == default:
            config = {key: value for key, value in config.items() if key != setting}
        return own.__func__(cls, config, **more)

    before = vars(layer).get("from_config")
    layer.from_config = classmethod(from_config)
    try:
        yield
    finally:
        if had:
            layer.from_config = before
        else:
            del layer.from_config
