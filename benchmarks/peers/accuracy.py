"""How near the answers have to be to those of eager PyTorch: the same limit for mlo's pick and for every peer.

Decided by what eight bits can give, and not by what any candidate reaches: a candidate that misses it is shown, and does not count.
"""

from __future__ import annotations

from types import MappingProxyType

__all__ = ["MIN_COSINE"]

MIN_COSINE = MappingProxyType(
    {
        # Embeddings of real sentences by a trained network.
        "minilm": 0.99,
        # Random weights have no accuracy, and nothing made them robust to noise as training does; all that can be asked is that the
        # answers still tell one image from another. The logits are centred, so that this is what a cosine is of: 0.95 leaves
        # the error about a tenth of their power (10 dB). Rounding weights (each channel) and activations (each tensor) to 8 bits, in
        # float arithmetic and without any tool, gives every single answer at least 0.975, with weights of 7 bits 0.962. So careful
        # int8 keeps the limit; saturation, a wrong range or weights rounded a tensor at a time do not have to.
        "resnet50": 0.95,
    }
)
"""Network → the least cosine between the answer to any one sample and that of eager PyTorch, which is what a user gets.

The pick is asked for it by the gate `min_row_cosine` of its spec, its peers by this comparison.
"""
