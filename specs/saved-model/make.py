"""Train a TensorFlow model on scikit-learn's diabetes data within seconds, and write a SavedModel and its samples.

    python specs/saved-model/make.py

writes model/ (the SavedModel) and samples.npz (held-out patients).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
SEED = 0
STEPS = 60  # more would overfit the few patients
HELD_OUT = 128
LEAST_R2 = 0.4
GRADES = (90.0, 150.0, 220.0)  # the lower bounds of the grades 1, 2 and 3
SEX = 1  # the column of the data that is a category, 1 or 2; the other nine are measurements


class Diabetes(tf.Module):
    """Predicts the progression of diabetes after one year."""

    def __init__(self, mean: np.ndarray, scale: np.ndarray) -> None:
        """Build the model; the measurements' mean and standard deviation, float32 [9], become part of it."""
        super().__init__()
        random = tf.random.Generator.from_seed(SEED)
        self.mean, self.scale = tf.constant(mean), tf.constant(scale)
        self.by_sex = tf.Variable(random.normal([2, 4], stddev=0.1))
        self.hidden = tf.Variable(random.normal([13, 32], stddev=0.2))
        self.bias = tf.Variable(tf.zeros([32]))
        self.last = tf.Variable(random.normal([32], stddev=0.1))
        self.offset = tf.Variable(0.0)

    def progression(self, measurements: tf.Tensor, sex: tf.Tensor) -> tf.Tensor:
        """From measurements float32 [batch, 9] and sex int64 [batch], 1 or 2, to a number for each row, usually 25 to 346."""
        known = tf.concat([(measurements - self.mean) / self.scale, tf.gather(self.by_sex, sex - 1)], axis=1)
        hidden = tf.nn.relu(known @ self.hidden + self.bias)
        return 150 + 75 * (tf.linalg.matvec(hidden, self.last) + self.offset)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 9], tf.float32, name="measurements"),
            tf.TensorSpec([None], tf.int64, name="sex"),
        ]
    )
    def serve(self, measurements: tf.Tensor, sex: tf.Tensor) -> dict[str, tf.Tensor]:
        """The SavedModel's signature `serving_default`."""
        progression = self.progression(measurements, sex)
        above = progression[:, None] > tf.constant(GRADES)
        return {"progression": progression, "grade": tf.reduce_sum(tf.cast(above, tf.int64), axis=1)}


def main() -> int:
    """Train, print the quality of the model, and write both files if it is good enough."""
    tf.config.experimental.enable_op_determinism()
    data = load_diabetes(scaled=False)
    measurements = np.delete(data.data, SEX, axis=1).astype(np.float32)
    sex = data.data[:, SEX].astype(np.int64)
    known, held_out = train_test_split(np.arange(len(sex)), test_size=HELD_OUT, random_state=SEED)

    model = Diabetes(measurements[known].mean(0), measurements[known].std(0))
    optimizer = tf.keras.optimizers.AdamW(3e-3, weight_decay=1e-2)
    target = tf.constant(data.target[known], tf.float32)
    for _ in range(STEPS):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(((model.progression(measurements[known], sex[known]) - target) / 75) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
    error = model.progression(measurements[held_out], sex[held_out]).numpy() - data.target[held_out]
    r2 = 1 - float((error**2).mean() / data.target[held_out].var())
    print(f"R2 {r2:.3f} on {len(held_out)} held-out patients")
    if r2 < LEAST_R2:
        print(f"expected at least {LEAST_R2}; nothing written", file=sys.stderr)
        return 1

    shutil.rmtree(HERE / "model", ignore_errors=True)
    tf.saved_model.save(model, str(HERE / "model"), signatures=model.serve)
    np.savez_compressed(HERE / "samples.npz", measurements=measurements[held_out], sex=sex[held_out])
    return 0


if __name__ == "__main__":
    sys.exit(main())
