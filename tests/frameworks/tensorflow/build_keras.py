"""Builds Keras files, good and bad, with what Keras itself answers: `python build_keras.py FOLDER`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import h5py
import keras
import numpy as np

layers = keras.layers
Config = dict[str, Any]


@keras.saving.register_keras_serializable("mine")
class Custom(keras.layers.Layer):  # type: ignore[misc]  # Keras is not typed
    def call(self, x: Any) -> Any:
        return x * 2


def custom_function(x: Any) -> Any:
    return x * 2


def two_in_two_out() -> Any:
    number = keras.Input((4,), name="number")
    ids = keras.Input((3,), dtype="int64", name="ids")
    embedded = layers.GlobalAveragePooling1D()(layers.Embedding(10, 4)(ids))
    both = layers.Concatenate()([number, embedded])
    outputs = {"score": layers.Dense(2, activation="softmax", name="last")(both), "sum": layers.Dense(3)(both)}
    return keras.Model({"n": number, "ids": ids}, outputs)


def images() -> Any:
    """With layers that act otherwise in training, trained so that the moving statistics are not those of a batch."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.GaussianNoise(1.0),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )
    model.compile("sgd", "mse")
    random = np.random.default_rng(0)
    model.fit(random.normal(3, 2, (32, 8, 8, 3)).astype(np.float32), np.zeros((32, 5), np.float32), verbose=0)
    return model


def shared() -> Any:
    """A layer that is called twice, whose two outputs would have the same name."""
    x = keras.Input((4,), name="x")
    dense = layers.Dense(2, name="dense")
    return keras.Model([x], [dense(x), dense(-x)])


def texts() -> Any:
    text = keras.Input((), dtype="string", name="text")
    words = layers.TextVectorization(vocabulary=["red", "green"], output_sequence_length=3, name="words")
    return keras.Model(text, words(text))


def recurrent() -> Any:
    x = keras.Input((None, 6), name="x")
    inner = layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)
    attended = layers.MultiHeadAttention(2, 4)(inner, inner)
    return keras.Model(x, layers.Dense(2, kernel_regularizer="l2", name="last")(attended))


def layers_of_keras_2() -> Any:
    """Those for which Keras 2 wrote a setting that Keras 3 does not know."""
    photo = keras.Input((8, 8, 3), name="photo")
    x = layers.SeparableConv2D(4, 3)(layers.DepthwiseConv2D(3)(photo))
    x = layers.Reshape((6, 24))(layers.Conv2DTranspose(4, 3)(x))
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True))(layers.LSTM(4, return_sequences=True)(x))
    return keras.Model(photo, layers.Dense(2, name="last")(layers.SimpleRNN(3)(x)))


def step_by_step() -> Any:
    """Keras 3.15 takes the size of the batch for the number of steps where both are open."""
    x = keras.Input((None, 6), name="x")
    return keras.Model(x, layers.TimeDistributed(layers.Dense(2), name="steps")(x))


def mixes_rows() -> Any:
    x = keras.Input((4,), name="x")
    return keras.Model(x, x - keras.ops.mean(x, axis=0, keepdims=True))


def at_least_three() -> Any:
    """Fails for sequences that are shorter than its kernel."""
    x = keras.Input((None, 2), name="x")
    return keras.Model(x, layers.GlobalMaxPooling1D()(layers.Conv1D(2, 3)(x)))


def one(layer: Callable[[Any], Any]) -> Any:
    x = keras.Input((4,), name="x")
    return keras.Model(x, layer(x))


def remembers() -> Any:
    x = keras.Input((3, 2), batch_size=2, name="x")
    return keras.Model(x, layers.LSTM(2, stateful=True)(x))


def nested_lambda() -> Any:
    inner = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x + 1, name="hidden")])
    return one(inner)


def sparse() -> Any:
    x = keras.Input((4,), sparse=True, name="x")
    return keras.Model(x, layers.Dense(2)(x))


MODELS: dict[str, Callable[[], Any]] = {
    "two": two_in_two_out,
    "images": images,
    "shared": shared,
    "texts": texts,
    "recurrent": recurrent,
    "at-least-three": at_least_three,
    "dense": lambda: one(layers.Dense(3, name="dense")),
    "dropout-left-on": lambda: one(lambda x: layers.Dropout(0.5, name="dropped")(x, training=True)),
    "mixes-rows": mixes_rows,
    "step-by-step": step_by_step,
    "remembers": remembers,
    "lambda": lambda: one(layers.Lambda(lambda x: x * 2, name="twice")),
    "nested-lambda": nested_lambda,
    "custom-layer": lambda: one(Custom(name="own")),
    "custom-function": lambda: one(layers.Activation(custom_function)),
    "sparse": sparse,
    "no-inputs": lambda: keras.Sequential([layers.Dense(3)]),
    "layers-of-keras-2": layers_of_keras_2,  # last, since layers without a name are numbered
}
ALSO_H5 = ("two", "images", "lambda", "custom-layer", "dense", "layers-of-keras-2")


def inputs_of(model: Any) -> dict[str, Any]:
    random = np.random.default_rng(1)
    made: dict[str, Any] = {}
    for tensor in model.inputs:
        shape = [size or 5 for size in (4, *tensor.shape[1:])]
        if tensor.dtype == "string":
            made[tensor.name] = np.array(["red green", "green", "blue red red", ""])
        elif tensor.dtype == "int64":
            made[tensor.name] = random.integers(0, 10, shape)
        else:
            made[tensor.name] = random.standard_normal(shape).astype(np.float32)
    return made


def answers(model: Any, inputs: dict[str, Any]) -> list[Any]:
    given = {name: keras.ops.convert_to_tensor(array) for name, array in inputs.items()}
    structured = (
        next(iter(given.values())) if len(given) == 1 else keras.tree.pack_sequence_as(model.input, [*given.values()])
    )
    return [np.asarray(array) for array in keras.tree.flatten(model.predict_on_batch(structured))]


def edited(source: Path, target: Path, change: Callable[[Config], None]) -> None:
    """A copy of a `.keras` file whose configuration was changed by hand."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config).encode()
            new.writestr(name, content)


def layer(config: Config, class_name: str) -> Config:
    found: Config = next(each for each in config["config"]["layers"] if each["class_name"] == class_name)
    return found


def tfsm(config: Config) -> None:
    dense = layer(config, "Dense")
    dense.update(class_name="TFSMLayer", config={"name": "dense", "filepath": "/models/other"})


def vocabulary(where: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        layer(config, "TextVectorization")["config"]["vocabulary"] = where

    return change


def function(module: str, name: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        called = {"module": module, "class_name": "function", "config": name, "registered_name": name}
        layer(config, "Dense")["config"]["activation"] = called

    return change


def of_class(module: str, name: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        layer(config, "Dense").update(module=module, class_name=name, registered_name=None)

    return change


def as_keras_2_wrote_it(file: Path) -> None:
    """Turn the file of `dense` into one of Keras 2, whose configurations name no modules."""
    zeros = {"class_name": "Zeros", "config": {}}
    settings = {"name": "x", "batch_input_shape": [None, 4], "dtype": "float32", "sparse": False, "ragged": False}
    dense = {
        "name": "dense", "trainable": True, "dtype": "float32", "units": 3, "activation": "linear", "use_bias": True,
        "kernel_initializer": zeros, "bias_initializer": zeros, "kernel_regularizer": None, "bias_regularizer": None,
        "activity_regularizer": None, "kernel_constraint": None, "bias_constraint": None,
    }  # fmt: skip
    nodes = {"InputLayer": (settings, []), "Dense": (dense, [[["x", 0, 0, {}]]])}
    config = {
        "name": "model",
        "layers": [
            {"class_name": kind, "config": said, "name": said["name"], "inbound_nodes": inbound}
            for kind, (said, inbound) in nodes.items()
        ],
        "input_layers": [["x", 0, 0]],
        "output_layers": [["dense", 0, 0]],
    }
    with h5py.File(file, "a") as opened:
        opened.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        opened.attrs["keras_version"] = "2.15.0"


def add_settings_of_keras_2(layer: Config, groups: int) -> None:
    inner = layer["config"].get("layer")
    if inner is not None:
        add_settings_of_keras_2(inner, groups)
    elif layer["class_name"] in {"DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose"}:
        layer["config"]["groups"] = groups
    elif layer["class_name"] in {"LSTM", "GRU", "SimpleRNN"}:
        layer["config"]["time_major"] = False


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)
    for name, build in MODELS.items():
        model = build()
        model.save(folder / f"{name}.keras")
        if name in ALSO_H5:
            model.save(folder / f"{name}.h5")
        if name in {"two", "images", "shared", "texts", "recurrent", "dropout-left-on", "dense", "layers-of-keras-2"}:
            inputs = inputs_of(model)
            np.savez(folder / f"{name}.inputs.npz", **inputs)
            np.savez(folder / f"{name}.answers.npz", *answers(model, inputs))
        if name == "dense":
            model.save_weights(folder / "only.weights.h5")
    dense, text = folder / "dense.keras", folder / "texts.keras"
    edited(dense, folder / "tfsm.keras", tfsm)
    edited(dense, folder / "foreign-class.keras", of_class("os", "system"))
    edited(dense, folder / "feature-space.keras", of_class("keras.utils", "FeatureSpace"))
    edited(dense, folder / "foreign-function.keras", function("os", "system"))
    edited(dense, folder / "get-file.keras", function("keras.utils", "get_file"))
    edited(text, folder / "vocabulary-path.keras", vocabulary("/etc/passwd"))
    edited(text, folder / "vocabulary-url.keras", vocabulary("gs://bucket/words.txt"))
    shutil.copy(folder / "dense.h5", folder / "keras-2.h5")
    as_keras_2_wrote_it(folder / "keras-2.h5")
    shutil.copy(folder / "layers-of-keras-2.h5", folder / "written-by-3.h5")
    for name, groups in (("layers-of-keras-2", 1), ("grouped", 2)):
        shutil.copy(folder / "written-by-3.h5", folder / f"{name}.h5")
        with h5py.File(folder / f"{name}.h5", "r+") as file:
            config = json.loads(file.attrs["model_config"])
            for layer in config["config"]["layers"]:
                add_settings_of_keras_2(layer, groups)
            file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(config), "2.12.0"
    shutil.copy(folder / "two.h5", folder / "external-link.h5")
    with h5py.File(folder / "external-link.h5", "a") as file:
        file["model_weights/stolen"] = h5py.ExternalLink("/etc/other.h5", "/secret")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
