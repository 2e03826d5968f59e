"""Builds SavedModels, good and bad, with what TensorFlow answers: `python build_saved_models.py FOLDER`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

v1 = tf.compat.v1
ROWS = tf.TensorSpec([None, 4], tf.float32, name="x")


def two_module() -> Any:
    """Two functions of one or two inputs, one of them an integer; and a training function beside them."""
    module = tf.Module()
    module.weights = tf.Variable(tf.reshape(tf.range(12, dtype=tf.float32), [4, 3]) / 10)
    module.table = tf.Variable(tf.range(10, dtype=tf.float32) / 5)

    def score(x: Any, kind: Any) -> dict[str, Any]:
        total = x @ module.weights + tf.gather(module.table, kind)[:, None]
        return {"logits": total, "best": tf.argmax(total, axis=-1)}

    def project(x: Any) -> dict[str, Any]:
        return {"projected": x @ module.weights}

    def train(x: Any) -> Any:
        module.weights.assign_sub(tf.reduce_mean(x) * tf.random.normal([4, 3]))
        return tf.constant(0.0)

    module.score = tf.function(score, input_signature=[ROWS, tf.TensorSpec([None], tf.int64, name="kind")])
    module.project = tf.function(project, input_signature=[ROWS])
    module.train = tf.function(train, input_signature=[ROWS])
    return module


def table_of(vocabulary: Path) -> Any:
    """Word → number of its line in the file, which becomes an asset."""
    kinds = tf.lookup.TextFileIndex
    lines = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, kinds.WHOLE_LINE, tf.int64, kinds.LINE_NUMBER)
    return tf.lookup.StaticHashTable(lines, -1)


def variant(folder: Path) -> None:
    """As a conversion leaves it: tensors by the spec's names, which may hold dots."""
    module = tf.Module()
    module.weights = tf.Variable(tf.ones([4, 2]))

    def call(x: Any, ids: Any, word: Any) -> dict[str, Any]:
        total = x @ module.weights + tf.cast(ids, tf.float32)[:, None]
        return {"total.sum": total, "small": tf.cast(total, tf.bfloat16), "said": tf.strings.join([word, "!"])}

    specs = [
        tf.TensorSpec([None, 4], tf.float32, name="row.x"),
        tf.TensorSpec([None], tf.int32, name="ids"),
        tf.TensorSpec([None], tf.string, name="word"),
    ]
    module.call = tf.function(call, input_signature=specs)
    tf.saved_model.save(module, str(folder / "saved_model"), signatures=module.call)


def of(function: Callable[[Any], Any], name: str = "serving_default") -> Callable[[Path], None]:
    """A SavedModel of one function over rows of four numbers; returns `y` if it returns a tensor."""

    def save(folder: Path) -> None:
        def call(x: Any) -> dict[str, Any]:
            answer = function(x)
            return answer if isinstance(answer, dict) else {"y": answer}

        module = tf.Module()
        module.call = tf.function(call, input_signature=[ROWS])
        tf.saved_model.save(module, str(folder), signatures={name: module.call})

    return save


def with_side_effect(effect: Callable[[], Any]) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        effect()
        return tf.identity(x)

    return function


def two(folder: Path) -> None:
    module = two_module()
    signatures = {"serving_default": module.score, "project": module.project}
    tf.saved_model.save(module, str(folder), signatures=signatures)


def refused_elsewhere(folder: Path) -> None:
    """What is served is harmless; another signature is not."""
    module = two_module()
    reads = tf.function(lambda x: {"y": x, "file": tf.io.read_file("/etc/passwd")}, input_signature=[ROWS])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.project, "other": reads})


def words(folder: Path) -> None:
    vocabulary = folder.with_suffix(".txt")
    vocabulary.write_text("red\ngreen\n", encoding="utf-8")
    module = tf.Module()
    module.table = table_of(vocabulary)

    def look_up(word: Any) -> dict[str, Any]:
        return {"number": module.table.lookup(word), "shout": tf.strings.upper(word)}

    module.look_up = tf.function(look_up, input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    tf.saved_model.save(module, str(folder), signatures=module.look_up)


def trained(folder: Path) -> None:
    """As Keras 2 writes a model after `fit`: beside the weights an optimizer, which has a variable of its own for each."""
    vocabulary = folder.with_suffix(".txt")
    vocabulary.write_text("red\ngreen\n", encoding="utf-8")
    module = tf.Module()
    module.weights = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))
    module.table = table_of(vocabulary)
    module.optimizer = tf.Module()
    module.optimizer.momentum = tf.Variable(tf.ones([4, 3]))

    def score(x: Any, factor: Any) -> dict[str, Any]:
        return {"y": x @ module.weights * factor}

    def look_up(word: Any) -> dict[str, Any]:
        return {"number": module.table.lookup(word)}

    module.score = tf.function(score, input_signature=[ROWS, tf.TensorSpec([], tf.float32, name="factor")])
    module.look_up = tf.function(look_up, input_signature=[tf.TensorSpec([None], tf.string, name="word")])
    signatures = {"serving_default": module.score, "look_up": module.look_up}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    changed_in_place(folder, with_optimizer)


def counter(folder: Path) -> None:
    module = tf.Module()
    module.calls = tf.Variable(0.0)
    module.run = tf.function(lambda x: {"y": x + module.calls.assign_add(1.0)}, input_signature=[ROWS])
    tf.saved_model.save(module, str(folder), signatures=module.run)


def from_hub(folder: Path) -> None:
    """As many folders of TensorFlow Hub are: to be called from Python, without a signature."""
    module = tf.Module()
    module.weights = tf.Variable(tf.ones([4, 3]))
    module.apply = tf.function(lambda x: x @ module.weights)
    module.apply.get_concrete_function(ROWS)  # what is never called is saved without a graph
    tf.saved_model.save(module, str(folder))


def from_keras(folder: Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 1), name="image"), keras.layers.Conv2D(2, 3), keras.layers.Flatten()])
    model.export(str(folder), verbose=False)


Built = tuple[dict[str, Any], dict[str, Any]]


def tf1(
    graph: Callable[[], Built],
    *,
    tags: tuple[str, ...] = ("serve",),
    name: str = "serving_default",
    assets: bool = False,
) -> Callable[[Path], None]:
    """A SavedModel as TensorFlow 1 makes it."""

    def save(folder: Path) -> None:
        with tf.Graph().as_default(), v1.Session() as session:
            inputs, outputs = graph()
            session.run([v1.global_variables_initializer(), v1.tables_initializer()])
            builder = v1.saved_model.Builder(str(folder))
            builder.add_meta_graph_and_variables(
                session,
                list(tags),
                signature_def_map={name: v1.saved_model.predict_signature_def(inputs, outputs)},
                assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS) if assets else None,
                main_op=v1.tables_initializer(),
            )
            builder.save()

    return save


def old_graph(*, resource: bool) -> Callable[[], Built]:
    def build() -> Built:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        scale = v1.placeholder(tf.int32, [None], name="scale")
        start = tf.constant_initializer(np.arange(12, dtype=np.float32).reshape(4, 3))
        weights = v1.get_variable("weights", [4, 3], initializer=start, use_resource=resource)
        y = tf.matmul(x, weights) * tf.cast(scale, tf.float32)[:, None]
        return {"input:0/x": x, "scale": scale}, {"scores": y, "best": tf.argmax(y, axis=1)}

    return build


def frozen_graph() -> Built:
    x = v1.placeholder(tf.float32, [None, 4], name="x")
    return {"x": x}, {"y": tf.matmul(x, tf.constant(np.ones((4, 3), np.float32)))}


def table_graph() -> Built:
    vocabulary = Path(sys.argv[1], "words.txt")
    word = v1.placeholder(tf.string, [None], name="word")
    return {"word": word}, {"number": table_of(vocabulary).lookup(word)}


def parsed_before_graph() -> Built:
    """The input comes out of a parser of requests, which a session skips."""
    request = v1.placeholder(tf.string, [], name="request")
    features = v1.io.decode_raw(request, tf.float32)
    x = tf.identity(tf.reshape(features, [-1, 4]), name="x")
    return {"x": x}, {"y": x * 2.0}


def unshaped_parser(graph: Any) -> None:
    """What stands before the input is of a shape that newer versions of TensorFlow refuse."""
    request = next(node for node in graph.graph_def.node if node.name == "request")
    request.attr["dtype"].type = tf.float32.as_datatype_enum


def reference_graph() -> Built:
    """An output is a variable itself."""
    x = v1.placeholder(tf.float32, [None, 4], name="x")
    weights = v1.get_variable("weights", [4, 3], initializer=v1.ones_initializer(), use_resource=False)
    return {"x": x}, {"y": tf.matmul(x, weights), "weights": weights}


def dead_function(graph: Any) -> None:
    """A function that nothing calls, such as TensorFlow 1 keeps of what it imported, writes a file."""
    function = graph.graph_def.library.function.add()
    function.signature.name = "traced_save"
    function.node_def.add(name="save", op="SaveV2")


def sparse_graph() -> Built:
    x = v1.sparse_placeholder(tf.float32, [None, 4], name="x")
    return {"x": x}, {"y": v1.sparse_tensor_dense_matmul(x, tf.ones([4, 2]))}


def sparse_parts(folder: Path) -> None:
    """As the one that takes a sparse tensor, but with its parts as inputs."""

    def call(indices: Any, values: Any) -> dict[str, Any]:
        return {"y": tf.sparse.sparse_dense_matmul(tf.SparseTensor(indices, values, [8, 4]), tf.ones([4, 2]))}

    parts = [tf.TensorSpec([None, 2], tf.int64, name="indices"), tf.TensorSpec([None], tf.float32, name="values")]
    module = tf.Module()
    module.call = tf.function(call, input_signature=parts)
    tf.saved_model.save(module, str(folder), signatures=module.call)


def with_content(folder: Path) -> None:
    """As the one that reads a file, but with its content as an input."""
    module = tf.Module()
    specs = [ROWS, tf.TensorSpec([], tf.string, name="file")]
    module.call = tf.function(lambda x, file: {"y": x, "file": tf.identity(file)}, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=module.call)


def callable_object(folder: Path) -> None:
    """Without a signature, and called as newer folders of TensorFlow Hub are."""

    class Doubles(tf.Module):  # type: ignore[misc]  # TensorFlow is not typed
        @tf.function  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return x * 2

    model = Doubles()
    model.__call__.get_concrete_function(ROWS)
    tf.saved_model.save(model, str(folder))


def unsigned_graph(folder: Path) -> None:
    """As TensorFlow 1 makes it, with variables, and nothing that says which tensors are inputs and outputs."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        weights = v1.get_variable("weights", [4, 3], initializer=v1.ones_initializer(), use_resource=False)
        tf.matmul(x, weights, name="y")
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"])
        builder.save()


def in_training_and_evaluation(graph_file: Any) -> None:
    """Two graphs, none of which is for serving."""
    graph_file.meta_graphs.append(graph_file.meta_graphs[0])
    for graph, tag in zip(graph_file.meta_graphs, ("train", "eval"), strict=True):
        del graph.meta_info_def.tags[:]
        graph.meta_info_def.tags.append(tag)


def not_for_serving(folder: Path) -> None:
    shutil.copytree(folder.with_name("old-frozen"), folder)
    content = SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    in_training_and_evaluation(content)
    (folder / "saved_model.pb").write_bytes(content.SerializeToString(deterministic=True))


def changed(source: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """A copy whose graph was changed by hand."""

    def save(folder: Path) -> None:
        shutil.copytree(folder.with_name(source), folder)
        changed_in_place(folder, change)

    return save


def changed_in_place(folder: Path, change: Callable[[Any], None]) -> None:
    content = SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    change(content.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(content.SerializeToString(deterministic=True))


def with_optimizer(graph: Any) -> None:
    """Make the object `optimizer` one of Keras 2, with the slot `m` of the weights."""
    objects = graph.object_graph_def.nodes
    child = {each.local_name: each.node_id for each in objects[0].children}
    optimizer = objects[child["optimizer"]]
    optimizer.user_object.identifier = "optimizer"
    slot = {each.local_name: each.node_id for each in optimizer.children}["momentum"]
    optimizer.slot_variables.add(original_variable_node_id=child["weights"], slot_name="m", slot_variable_node_id=slot)


def foreign_operator(graph: Any) -> None:
    next(
        n for f in graph.graph_def.library.function for n in f.node_def if n.op == "MatMul"
    ).op = "RegexSplitWithOffsets"


def asset_elsewhere(graph: Any) -> None:
    graph.asset_file_def[0].filename = "../../../etc/passwd"


def saver_writes_elsewhere(graph: Any) -> None:
    """The operation that restores the variables also writes a checkpoint."""
    node = graph.graph_def.node.add(
        name="save/copy", op="SaveV2", input=["save/Const", "save/names", "save/slices", "x"]
    )
    node.attr["dtypes"].list.type.append(tf.float32.as_datatype_enum)
    next(n for n in graph.graph_def.node if n.name == graph.saver_def.restore_op_name).input.append("^save/copy")


def restores_elsewhere(graph: Any) -> None:
    """The variables come from another path than the model's own."""
    other = graph.graph_def.node.add(name="other/path", op="Const")
    other.attr["dtype"].type = tf.string.as_datatype_enum
    other.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/models/other/variables"))
    next(n for n in graph.graph_def.node if n.op == "RestoreV2").input[0] = "other/path"


def tables_from_elsewhere(graph: Any) -> None:
    """A table is read from a path that stands in the graph."""
    del graph.asset_file_def[:]
    graph.collection_def["saved_model_assets"].Clear()


SAVED: dict[str, Callable[[Path], None]] = {
    "two": two,
    "words": words,
    "trained": trained,
    "counter": counter,
    "keras": from_keras,
    "variant": variant,
    "callable": from_hub,
    "callable-object": callable_object,
    "doubles": of(lambda x: x * 2),
    "with-content": with_content,
    "other-name": of(lambda x: x * 2, "predict"),
    "prints": of(with_side_effect(lambda: tf.print("hello"))),
    "loops": of(lambda x: tf.map_fn(lambda row: tf.cond(row[0] > 0, lambda: row, lambda: -row), x)),
    "bfloat16": of(lambda x: tf.cast(x, tf.bfloat16)),
    "random": of(lambda x: x + tf.random.normal([4])),
    "mixes": of(lambda x: x - tf.reduce_mean(x, axis=0)),
    "gathers": of(lambda x: tf.gather(x, [0, 3], axis=0)),
    "old-reference": tf1(old_graph(resource=False)),
    "old-resource": tf1(old_graph(resource=True)),
    "old-frozen": tf1(frozen_graph),
    "old-table": tf1(table_graph, assets=True),
    "old-parsed": tf1(parsed_before_graph),
    "old-parsed-wrongly": changed("old-parsed", unshaped_parser),
    "old-output": tf1(reference_graph),
    "dead-function": changed("old-frozen", dead_function),
    "old-hub": tf1(frozen_graph, tags=(), name="default"),
    "py-function": of(lambda x: tf.ensure_shape(tf.py_function(lambda a: a * 2, [x], tf.float32), [None, 4])),
    "numpy-function": of(lambda x: tf.ensure_shape(tf.numpy_function(lambda a: a, [x], tf.float32), [None, 4])),
    "py-function-in-loop": of(lambda x: tf.map_fn(lambda row: tf.py_function(lambda a: a, [row], tf.float32), x)),
    "reads": of(lambda x: {"y": x, "file": tf.io.read_file("/etc/passwd")}),
    "matches": of(lambda x: {"y": x, "files": tf.io.matching_files("/etc/*")}),
    "writes": of(with_side_effect(lambda: tf.io.write_file("/tmp/written", "by the model"))),
    "prints-to-file": of(with_side_effect(lambda: tf.print("hello", output_stream="file:///tmp/printed"))),
    "restores": of(lambda x: x + tf.raw_ops.RestoreV2(
        prefix="/models/other", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32])[0]),
    "saves": of(with_side_effect(lambda: tf.raw_ops.SaveV2(
        prefix="/tmp/saved", tensor_names=["a"], shape_and_slices=[""], tensors=[tf.ones([2])]))),
    "record-dataset": of(lambda x: x + tf.cast(tf.data.TFRecordDataset("/etc/passwd").reduce(0, lambda n, _: n + 1), tf.float32)),
    "refused-elsewhere": refused_elsewhere,
    "sparse": tf1(sparse_graph),
    "sparse-parts": sparse_parts,
    "old-unsigned": unsigned_graph,
    "not-for-serving": not_for_serving,
    "foreign-operator": changed("two", foreign_operator),
    "asset-elsewhere": changed("words", asset_elsewhere),
    "saver-writes": changed("old-resource", saver_writes_elsewhere),
    "restores-elsewhere": changed("old-resource", restores_elsewhere),
    "table-elsewhere": changed("old-table", tables_from_elsewhere),
}  # fmt: skip


def main(folder: Path) -> None:
    for name, save in SAVED.items():
        save(folder / name)
    (folder / "old-hub" / "tfhub_module.pb").write_bytes(b"\x08\x03")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
