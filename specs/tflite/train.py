"""Train a classifier of wines on scikit-learn's data, and convert it to a LiteRT (TFLite) model.

    python specs/tflite/train.py

writes wine.tflite and samples.npz (held-out rows with their labels).
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
SEED = 0
EPOCHS = 60
HELD_OUT = 54
LEAST_ACCURACY = 0.95


def architecture(rows: np.ndarray) -> keras.Model:
    """From 13 measures of a wine, in their own units, to the probabilities of three producers."""
    measures = keras.Input((13,), name="measures")
    normalized = layers.Normalization()
    normalized.adapt(rows)
    x = layers.Dense(32, activation="relu")(normalized(measures))
    x = layers.Dense(32, activation="relu")(x)
    return keras.Model(measures, {"probabilities": layers.Dense(3, activation="softmax")(x)}, name="wine")


def convert(model: keras.Model) -> bytes:
    """The model in LiteRT, for batches of any size, converted from a SavedModel."""
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def main() -> int:
    """Train, print the quality of the model, and write both files if it is good enough."""
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    data = load_wine()
    measures, labels = data.data.astype(np.float32), data.target.astype(np.int64)
    train_rows, test_rows, train_labels, test_labels = train_test_split(
        measures, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels
    )
    model = architecture(train_rows)
    model.compile(keras.optimizers.Adam(3e-3), {"probabilities": "sparse_categorical_crossentropy"})
    model.fit(train_rows, {"probabilities": train_labels}, 16, EPOCHS, verbose=0)
    accuracy = float((model.predict(test_rows, verbose=0)["probabilities"].argmax(1) == test_labels).mean())
    print(f"test accuracy {accuracy:.4f} on {len(test_labels)} held-out rows")
    if accuracy < LEAST_ACCURACY:
        print(f"expected at least {LEAST_ACCURACY}; nothing written", file=sys.stderr)
        return 1
    (HERE / "wine.tflite").write_bytes(convert(model))
    np.savez_compressed(HERE / "samples.npz", measures=test_rows, labels=test_labels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
