"""Builds small models of one framework into a folder: `python tests/cli/model_zoo.py torch|tensorflow|onnx FOLDER`.

A process of its own, since PyTorch and TensorFlow never share one, and the tests' own process imports neither.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path


def build_torch(folder: Path) -> None:
    """An exported program, a TorchScript archive, a state dict, a training checkpoint, a Transformers folder."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    class Tiled(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
        """Keyword arguments, a cast, and a size that is a multiple of 4."""

        def forward(self, picture: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            tiles = torch.softmax(picture.float(), 2).reshape(picture.shape[0], -1, 4, 3).mean(2)
            return tiles * weight[:, None, None]

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10)).eval()
    image = torch.randn(2, 1, 8, 8)
    shapes = ({0: torch.export.Dim("batch", min=1, max=16)},)
    torch.export.save(torch.export.export(network, (image,), dynamic_shapes=shapes), folder / "exported.pt2")
    height = torch.export.Dim("height", min=2, max=16)
    keywords = {"picture": torch.zeros(2, 8, 3, dtype=torch.uint8), "weight": torch.ones(2)}
    torch.export.save(
        torch.export.export(
            Tiled().eval(), (), keywords, dynamic_shapes={"picture": {**shapes[0], 1: 4 * height}, "weight": shapes[0]}
        ),
        folder / "keywords.pt2",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, image).save(str(folder / "traced.pt"))
    save_file(network.state_dict(), folder / "weights.safetensors")
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, folder / "lightning.ckpt")
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=24,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(folder / "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(45))]
    (folder / "bert" / "vocab.txt").write_text("\n".join(words) + "\n")


def build_tensorflow(folder: Path) -> None:
    """A model as .keras and .h5, one with two inputs, two SavedModels, a LiteRT model."""
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import keras
    import tensorflow as tf

    image = keras.Input((8, 8, 1), name="image")
    network = keras.Model(image, keras.layers.Dense(10, name="logits")(keras.layers.Flatten()(image)))
    network.save(folder / "whole.keras")
    network.save(folder / "whole.h5")
    network.export(folder / "exported", verbose=False)
    (folder / "lite.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(network).convert())
    words = keras.Input((None, 4), name="words")
    flags = keras.Input((3,), name="flags", dtype="int32")
    means = keras.layers.Dense(2, name="scores")(keras.layers.GlobalAveragePooling1D()(words))
    keras.Model([words, flags], [means, keras.ops.cast(flags, "float32")]).save(folder / "two.keras")
    module = tf.Module()
    module.double = tf.function(lambda x: {"y": x * 2}, input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
    tf.saved_model.save(module, str(folder / "renamed"), signatures={"score": module.double})


def build_onnx(folder: Path) -> None:
    """A graph whose tensors have names that a spec cannot hold."""
    import onnx
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("serving_default_x:0", TensorProto.FLOAT, ["N", 4])
    returned = helper.make_tensor_value_info("1", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([helper.make_node("Relu", [given.name], [returned.name])], "g", [given], [returned])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "odd names.onnx")


if __name__ == "__main__":
    {"torch": build_torch, "tensorflow": build_tensorflow, "onnx": build_onnx}[sys.argv[1]](Path(sys.argv[2]))
