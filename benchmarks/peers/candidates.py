"""The ways of running a network that are compared: who makes each, for which network, and how it is made and opened."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CANDIDATES", "PICK", "Candidate", "of"]


@dataclass(frozen=True)
class Candidate:
    """One way.

    Attributes:
        name: of its folder.
        title: in tables.
        opener: `module:function` that opens it.
        maker: `module:function` that makes its files; empty where there is nothing to make.
        networks: for which it is tried; empty for all.
    """

    name: str
    title: str
    opener: str
    maker: str = ""
    networks: tuple[str, ...] = ()


PICK = "mlo"
_ORT, _OV, _TUNED = "by_hand:open_onnx", "intel:open_compiled", "olive_models:open_tuned"
_RESNET, _MINILM = ("resnet50",), ("minilm",)

CANDIDATES: tuple[Candidate, ...] = (
    Candidate(PICK, "**mlo's pick**", "pick:open_pick", "pick:make_pick"),
    Candidate("eager", "PyTorch, eager", "by_hand:open_eager"),
    Candidate(
        "torchscript", "TorchScript, frozen and optimized", "by_hand:open_torchscript", "by_hand:make_torchscript"
    ),
    Candidate("compile", "`torch.compile`", "by_hand:open_compiled", "by_hand:make_compiled"),
    Candidate("compile-frozen", "`torch.compile` with freezing", "by_hand:open_frozen", "by_hand:make_frozen"),
    Candidate("ort-fp32", "ONNX Runtime by hand, fp32", _ORT, "by_hand:make_onnx"),
    Candidate("ort-fused", "ONNX Runtime by hand, fp32, fused", _ORT, "by_hand:make_fused", _MINILM),
    Candidate("ort-dynamic", "ONNX Runtime by hand, fused, dynamic int8", _ORT, "by_hand:make_dynamic", _MINILM),
    Candidate(
        "ort-dynamic-7",
        "ONNX Runtime by hand, fused, dynamic int8, weights of 7 bits",
        _ORT,
        "by_hand:make_dynamic_reduced",
        _MINILM,
    ),
    Candidate("ort-static", "ONNX Runtime by hand, static int8 (QDQ, U8S8)", _ORT, "by_hand:make_static"),
    Candidate(
        "ort-static-7", "ONNX Runtime by hand, static int8, weights of 7 bits", _ORT, "by_hand:make_static_reduced"
    ),
    Candidate("openvino-fp32", "OpenVINO, fp32", _OV, "intel:make_fp32"),
    Candidate("openvino-int8", "OpenVINO, int8 by NNCF", _OV, "intel:make_int8"),
    Candidate("olive-fp32", "Olive, fp32", _TUNED, "olive_models:make_fp32"),
    Candidate("olive-dynamic", "Olive, dynamic int8", _TUNED, "olive_models:make_dynamic", _MINILM),
    Candidate("olive-static", "Olive, static int8 (its defaults)", _TUNED, "olive_models:make_static"),
    Candidate("olive-static-u8", "Olive, static int8 (U8S8)", _TUNED, "olive_models:make_static_unsigned", _RESNET),
)
"""The pick first, then what users would take instead."""


def of(network: str) -> tuple[Candidate, ...]:
    """Those that are tried for a network."""
    return tuple(each for each in CANDIDATES if not each.networks or network in each.networks)
