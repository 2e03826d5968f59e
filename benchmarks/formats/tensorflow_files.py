"""Saves a model of the same architecture as a SavedModel: `python tensorflow_files.py resnet-50|bert-base|gpt-2 FOLDER`.

ResNet-50 is Keras's own; the two transformers are written here by their papers' sizes (Devlin et al. 2018; Radford et al. 2019),
since the Transformers library has no TensorFlow models any more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

WIDTH, LAYERS, HEADS = 768, 12, 12


class Tokens(keras.layers.Layer):
    """Token and position embeddings, added; `logits` multiplies with the same token table, as GPT-2 does."""

    def __init__(self, vocabulary: int, positions: int, segments: int) -> None:
        super().__init__()
        self.tokens = keras.layers.Embedding(vocabulary, WIDTH)
        self.positions = keras.layers.Embedding(positions, WIDTH)
        self.segments = keras.layers.Embedding(segments, WIDTH) if segments else None

    def call(self, ids: Any) -> Any:
        """Embeddings of token ids."""
        found = self.tokens(ids) + self.positions(tf.range(tf.shape(ids)[1])[None, :])
        return found if self.segments is None else found + self.segments(tf.zeros_like(ids))

    def logits(self, hidden: Any) -> Any:
        """A score for each token."""
        return tf.matmul(hidden, self.tokens.embeddings, transpose_b=True)


class Block(keras.layers.Layer):
    """Attention and two dense layers, each with a shortcut."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.attention = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
        self.inner, self.outer = keras.layers.Dense(4 * WIDTH, "gelu"), keras.layers.Dense(WIDTH)
        self.first, self.second = keras.layers.LayerNormalization(), keras.layers.LayerNormalization()

    def call(self, values: Any) -> Any:
        """One layer."""
        if self.causal:  # norms before, as in GPT-2
            normed = self.first(values)
            values = values + self.attention(normed, normed, use_causal_mask=True)
            return values + self.outer(self.inner(self.second(values)))
        values = self.first(values + self.attention(values, values))
        return self.second(values + self.outer(self.inner(values)))


class Transformer(keras.Model):
    """BERT with its pooler, or GPT-2 with its logits."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.embedded = Tokens(50257, 1024, 0) if causal else Tokens(30522, 512, 2)
        self.blocks = [Block(causal=causal) for _ in range(LAYERS)]
        self.normed = keras.layers.LayerNormalization()
        self.pooler = None if causal else keras.layers.Dense(WIDTH, "tanh")

    def call(self, ids: Any) -> Any:
        """The first output."""
        values = self.embedded(ids)
        if self.pooler is not None:
            values = self.normed(values)
        for block in self.blocks:
            values = block(values)
        return self.embedded.logits(self.normed(values)) if self.pooler is None else self.pooler(values[:, 0])


def save(name: str, folder: Path) -> None:
    model = keras.applications.ResNet50(weights=None) if name == "resnet-50" else Transformer(causal=name == "gpt-2")
    if name == "resnet-50":
        signature = tf.TensorSpec((None, 224, 224, 3), tf.float32)
    else:
        model(np.zeros((1, 8), np.int32))
        signature = tf.TensorSpec((None, None), tf.int32)
    # Keras's own export writes every variable twice, as the model's and as the archive's.
    served = tf.Module()
    served.weights = [weight.value for weight in model.weights]
    served.answer = tf.function(lambda values: model(values, training=False), [signature])
    tf.saved_model.save(served, str(folder / "saved-model"), signatures=served.answer)


if __name__ == "__main__":
    save(sys.argv[1], Path(sys.argv[2]))
