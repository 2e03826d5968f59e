"""Train a Keras model on scikit-learn's digits within seconds, and write its file and its samples.

    python specs/keras/train.py

writes digits.keras (the model) and samples.npz (held-out images with their labels).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
SEED = 0
EPOCHS = 30
BATCH = 64
HELD_OUT = 256
LEAST_ACCURACY = 0.97


def architecture() -> keras.Model:
    """From images float32 [batch, 8, 8, 1], channels last, with grey values in [0, 1], to logits float32 [batch, 10]."""
    image = keras.Input((8, 8, 1), name="image")
    x = image
    for filters in (24, 48):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="digits")


def main() -> int:
    """Train, print the quality of the model, and write both files if it is good enough."""
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)  # grey values of 0 to 16 become [0, 1]
    labels = digits.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels
    )

    model = architecture()
    steps = EPOCHS * (len(train_images) // BATCH + 1)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-3, steps), weight_decay=1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(train_images, train_labels, BATCH, EPOCHS, verbose=0)
    accuracy = float((model.predict(test_images, verbose=0).argmax(1) == test_labels).mean())
    print(f"test accuracy {accuracy:.4f} on {len(test_labels)} held-out images")
    if accuracy < LEAST_ACCURACY:
        print(f"expected at least {LEAST_ACCURACY}; nothing written", file=sys.stderr)
        return 1

    # Without the optimizer, which would be two thirds of the file.
    keras.Model(model.inputs, model.outputs, name="digits").save(HERE / "digits.keras")
    np.savez_compressed(HERE / "samples.npz", image=test_images, labels=test_labels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
