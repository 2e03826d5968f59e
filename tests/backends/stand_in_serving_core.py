"""The models of the stand-in for `tensorflow_model_server`: versions that come and go, labels, warm-up records."""

from __future__ import annotations

import argparse
import re
import threading
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.backends.tensorflow_serving_messages import ModelServerConfig, PredictionLog

__all__ = ["Core", "RequestError", "Version", "parsed"]


class RequestError(Exception):
    """Status and message of an answer that is none."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parsed(path: str, message: Any) -> Any:
    """A file that holds a text proto, as the message."""
    return text_format.Parse(Path(path).read_bytes(), message)


class Version:
    """One loaded SavedModel."""

    def __init__(self, path: Path, *, warm: bool) -> None:
        self.model = tf.saved_model.load(str(path))
        self.call = self.model.signatures["serving_default"]
        self.inputs = self.call.structured_input_signature[1]
        graph = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0]
        self.signatures = graph.signature_def
        records = path / "assets.extra" / "tf_serving_warmup_requests"
        if warm and records.exists():
            count = 0
            for record in tf.data.TFRecordDataset(str(records)):
                request = PredictionLog.FromString(bytes(record.numpy())).predict_log.request
                if request.model_spec.signature_name not in self.signatures:
                    raise ValueError(f'Serving signature key "{request.model_spec.signature_name}" not found.')
                self.run({name: tf.make_ndarray(proto) for name, proto in request.inputs.items()})
                count += 1
            print(
                f"Finished reading warmup data for model at {records}. Number of warmup records read: {count}.",
                flush=True,
            )

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if set(inputs) != set(self.inputs):
            raise ValueError(f"input size does not match signature: {sorted(inputs)} != {sorted(self.inputs)}")
        outputs = self.call(**{name: tf.constant(value, self.inputs[name].dtype) for name, value in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}


class Core:
    """The versions of one model, and its labels."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags = flags
        self.config = ModelServerConfig()
        self.source: Any = None
        self.labels: dict[str, int] = {}
        self.loaded: dict[int, Version] = {}
        self.errors: dict[int, str] = {}
        self.lock = threading.RLock()

    @property
    def name(self) -> str:
        return str(self.config.model_config_list.config[0].name)

    def reload(self, config: Any) -> None:
        """`ServerCore::ReloadConfig`, for one model."""
        (model,) = config.model_config_list.config
        if not model.base_path.startswith("/"):
            raise ValueError(f"Expected model {model.name} to have an absolute path or URI; got {model.base_path}")
        if model.model_platform != "tensorflow":
            raise ValueError("Illegal setting of model_platform")
        with self.lock:
            self.config = config
            labels = {}
            for label, version in model.version_labels.items():
                in_use = self.labels.get(label, version) != version
                allowed = self.flags.allow_version_labels_for_unavailable_models and not in_use
                if version not in self.loaded and not allowed:
                    raise ValueError(
                        f"Request to assign label to version {version} of model {model.name},"
                        " which is not currently available for inference"
                    )
                labels[label] = version
            self.labels = labels
            first = self.source is None
            self.source = model
        if first:
            self.poll_files()
            if not self.loaded or max([*self.loaded, *self.errors]) in self.errors:
                raise ValueError(f"model(s) did not become available: {self.errors or 'no versions found'}")

    def poll_files(self) -> None:
        """What `FileSystemStoragePathSource` finds, loaded, and then what is gone, unloaded."""
        base, policy = Path(self.source.base_path), self.source.model_version_policy
        there = {int(path.name): path for path in base.iterdir() if re.fullmatch(r"[0-9]+", path.name)}
        which = policy.WhichOneof("policy_choice")
        if which == "specific":
            there = {number: path for number, path in there.items() if number in policy.specific.versions}
        elif which != "all":
            there = dict(sorted(there.items())[-max(1, policy.latest.num_versions) :])
        for number, path in sorted(there.items()):
            if number in self.loaded or number in self.errors:
                continue
            try:
                version = Version(path, warm=self.flags.enable_model_warmup)
            except Exception as error:  # noqa: BLE001 - any failure of a load is a state of the version
                print(f"Loading servable: {{name: {self.name} version: {number}}} failed: {error}", flush=True)
                self.errors[number] = str(error)
                continue
            with self.lock:
                self.loaded[number] = version
            print(f"Successfully loaded servable version {{name: {self.name} version: {number}}}", flush=True)
        with self.lock:
            if any(number in self.loaded for number in there):
                self.loaded = {number: v for number, v in self.loaded.items() if number in there}

    def poll_config(self) -> None:
        try:
            self.reload(parsed(self.flags.model_config_file, ModelServerConfig()))
        except (ValueError, text_format.ParseError, OSError) as error:
            print(f"PollFilesystemAndReloadConfig failed to ReloadConfig: {error}", flush=True)

    def version(self, name: str, number: str | None, label: str | None) -> tuple[int, Version]:
        with self.lock:
            if name != self.name:
                raise RequestError(404, f"Servable not found for request: Latest({name})")
            if label is not None and label not in self.labels:
                raise RequestError(400, f"Unrecognized servable version label: {label}")
            wanted = self.labels[label] if label is not None else int(number) if number else max(self.loaded, default=0)
            if wanted not in self.loaded:
                raise RequestError(404, f"Servable not found for request: Specific({name}, {wanted})")
            return wanted, self.loaded[wanted]
