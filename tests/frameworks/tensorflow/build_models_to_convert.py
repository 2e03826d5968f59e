"""Builds the models that the tests of TensorFlow and LiteRT read: `python build.py FOLDER`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

layers = keras.layers


def digits() -> tuple[Any, Any]:
    """Images [rows, 8, 8, 1] in [0, 1] and their labels."""
    data = load_digits()
    return (data.images[..., None] / 16).astype(np.float32), data.target.astype(np.int64)


def cnn() -> Any:
    """Channels last; trained, so that quantizing it can be judged."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPool2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(10, name="logits"),
        ]
    )
    images, labels = digits()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(images[256:], labels[256:], batch_size=32, epochs=8, verbose=0)
    return model


def two_in_two_out() -> Any:
    ids, mask = keras.Input((None,), dtype="int32", name="ids"), keras.Input((None,), name="mask")
    tokens = layers.Embedding(50, 8)(ids) * keras.ops.expand_dims(mask, -1)
    score = layers.Dense(1)(keras.ops.mean(tokens, axis=1))
    return keras.Model({"ids": ids, "mask": mask}, {"tokens": tokens, "score": score})


def lstm() -> Any:
    x = keras.Input((None, 6), name="x")
    return keras.Model(x, layers.Dense(3, name="y")(layers.LSTM(5)(x)))


def gru() -> Any:
    x = keras.Input((None, 6), name="x")
    return keras.Model(x, layers.Dense(3, name="y")(layers.GRU(5)(x)))


def attention() -> Any:
    x = keras.Input((None, 16), name="x")
    y = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
    return keras.Model(x, layers.Dense(16, activation="gelu", name="y")(y))


def encoder() -> Any:
    """Large enough for LiteRT to quantize its weights."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(100, 64)(ids)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 16)(x, x))
    return keras.Model(ids, {"tokens": layers.Dense(64)(layers.Dense(128, activation="gelu")(x))})


def no_counterpart() -> Any:
    """Neither ONNX nor LiteRT have the inverse of the error function."""
    x = keras.Input((4,), name="x")
    return keras.Model(x, keras.ops.erfinv(x * 0.3))


def words() -> tuple[Any, Any]:
    """Texts in, a vector for each out: a table of words, which is no variable. The owner, and the function."""
    keys = tf.constant(["red", "green", "blue"])
    owner = tf.Module()
    owner.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, tf.range(3)), 3)
    owner.vectors = tf.Variable(np.arange(16, dtype=np.float32).reshape(4, 4))

    def look_up(word: Any) -> dict[str, Any]:
        return {"vector": tf.gather(owner.vectors, owner.table.lookup(word))}

    return owner, tf.function(look_up, input_signature=[tf.TensorSpec([None], tf.string, name="word")])


def _keras(folder: Path, *makers: Callable[[], Any]) -> dict[str, Any]:
    models = {}
    for make in makers:
        keras.utils.set_random_seed(0)
        models[make.__name__] = make()
        models[make.__name__].save(folder / f"{make.__name__}.keras")
    return models


def _lite(converter: Any, path: Path, **options: Any) -> None:
    for name, value in options.items():
        setattr(converter.target_spec if name == "supported_ops" else converter, name, value)
    path.write_bytes(converter.convert())


def _of_keras(model: Any, folder: Path, **options: Any) -> Any:
    """A converter; by way of a SavedModel, which makes the weights constants."""
    model.export(folder / "exported", verbose=False, **options)
    return tf.lite.TFLiteConverter.from_saved_model(str(folder / "exported"))


def _of_function(function: Callable[..., dict[str, Any]], *specs: Any) -> Any:
    owner = tf.Module()
    owner.function = tf.function(function, input_signature=specs)
    return tf.lite.TFLiteConverter.from_concrete_functions([owner.function.get_concrete_function()], owner)


def _counting(folder: Path, spec: Any, unnoticed: float = 0.0) -> Any:
    """Adds to its inputs how often it was called, beyond a number of calls in which nothing shows that it counts."""
    owner = tf.Module()
    owner.calls = tf.Variable(0.0)

    def counting(x: Any) -> dict[str, Any]:
        owner.calls.assign_add(1.0)
        return {"y": x + tf.maximum(owner.calls - unnoticed, 0.0)}

    owner.function = tf.function(counting, input_signature=[spec])
    path = str(folder / f"counting_after_{unnoticed:.0f}")
    tf.saved_model.save(owner, path, signatures=owner.function.get_concrete_function())
    return tf.lite.TFLiteConverter.from_saved_model(path)


def bits(x: Any) -> dict[str, Any]:
    return {"y": tf.bitwise.bitwise_and(tf.cast(x, tf.int32), 3)}


def remainders(x: Any) -> dict[str, Any]:
    """The same as `bits`, with operators that LiteRT has."""
    whole = tf.cast(x, tf.int32)
    return {"y": tf.math.floormod(whole, 4)}


def noisy(x: Any) -> dict[str, Any]:
    return {"y": x + tf.random.uniform(tf.shape(x))}


def mixing(x: Any) -> dict[str, Any]:
    return {"y": x - tf.reduce_mean(x, axis=0)}


def buckets(x: Any) -> dict[str, Any]:
    """LiteRT has this operator, and ONNX has not."""
    return {"y": tf.raw_ops.Bucketize(input=x, boundaries=[0.0, 1.0])}


def texts(words: Any, which: Any) -> dict[str, Any]:
    return {"chosen": tf.gather(words, which), "known": tf.greater(which, 0)}


def _lite_models(folder: Path, models: dict[str, Any]) -> None:
    images, _ = digits()
    _lite(_of_keras(models["cnn"], folder), folder / "cnn.tflite")
    quantized = {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([image[None]] for image in images[:64]),
        "supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8],
    }
    _lite(_of_keras(models["cnn"], folder), folder / "cnn_float_io.tflite", **quantized)
    integers = {"inference_input_type": tf.uint8, "inference_output_type": tf.uint8}
    _lite(_of_keras(models["cnn"], folder), folder / "cnn_integer_io.tflite", **quantized, **integers)
    one = [keras.InputSpec(shape=(1, 8, 8, 1), dtype="float32", name="image")]
    _lite(_of_keras(models["cnn"], folder, input_signature=one), folder / "cnn_batch_of_one.tflite")
    _lite(_of_keras(models["two_in_two_out"], folder), folder / "two_in_two_out.tflite")

    four = tf.TensorSpec([None, 4], tf.float32, name="x")
    both = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    _lite(_of_function(bits, four), folder / "select_ops.tflite", supported_ops=both)
    _lite(_of_function(bits, four), folder / "custom_ops.tflite", allow_custom_ops=True)
    _lite(_of_function(remainders, four), folder / "remainders.tflite")
    owner = tf.Module()
    owner.bits = tf.function(bits, input_signature=[four])
    tf.saved_model.save(owner, str(folder / "bits"), signatures=owner.bits)
    _lite(_of_function(noisy, four), folder / "noisy.tflite")
    _lite(_of_function(mixing, four), folder / "mixing.tflite")
    _lite(_of_function(buckets, four), folder / "buckets.tflite")
    _lite(_counting(folder, four), folder / "counting.tflite")
    _lite(_counting(folder, four, 1e6), folder / "counting_later.tflite")
    two = tf.TensorSpec([None], tf.string, name="words"), tf.TensorSpec([None], tf.int64, name="which")
    _lite(_of_function(texts, *two), folder / "texts.tflite")


def hours(minutes: Any, day: Any) -> dict[str, Any]:
    """Divides downwards, and takes what is left; the day's name comes from a table of 7."""
    names = tf.range(7.0) * 1.5
    return {"hour": minutes // 60, "minute": minutes % 60, "name": tf.gather(names, day), "hot": tf.one_hot(day, 7)}


def main(folder: Path) -> None:
    """Build everything."""
    images, labels = digits()
    np.savez(folder / "digits.npz", image=images[:256], labels=labels[:256])
    np.savez(folder / "ids.npz", ids=np.random.default_rng(0).integers(0, 100, (64, 12)).astype(np.int32))
    models = _keras(folder, cnn, two_in_two_out, lstm, gru, attention, encoder, no_counterpart)
    models["cnn"].export(folder / "cnn_saved_model", verbose=False)
    models["lstm"].export(folder / "lstm_saved_model", verbose=False)
    owner, look_up = words()
    tf.saved_model.save(owner, str(folder / "words_saved_model"), signatures=look_up.get_concrete_function())
    _lite_models(folder, models)
    specs = [tf.TensorSpec([None, 3], tf.int32, name="minutes"), tf.TensorSpec([None], tf.int32, name="day")]
    module = tf.Module()
    module.call = tf.function(hours, input_signature=specs)
    path = str(folder / "hours_saved_model")
    tf.saved_model.save(module, path, signatures=module.call.get_concrete_function())
    _lite(tf.lite.TFLiteConverter.from_saved_model(path), folder / "hours.tflite")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
