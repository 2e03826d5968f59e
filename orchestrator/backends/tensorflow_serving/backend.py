"""SavedModels on TensorFlow Serving 2.20, with safe settings instead of harmful defaults.

The settings and their reasons are in `config.py`, the start on this machine in `local.py`, folders with several versions in
`versions.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.backends.backend import InProcess, Launch, Program, Server, ServingBackend, Unavailable
from orchestrator.backends.folder import copy_file, model_file, write_file
from orchestrator.backends.tensorflow_serving import config
from orchestrator.backends.tensorflow_serving.local import (
    CONTAINER_FILE,
    GPU_ENVIRONMENT,
    IMAGE,
    PROGRAM,
    engine_failure,
    found_program,
    missing,
)
from orchestrator.backends.tensorflow_serving.metrics import METRICS
from orchestrator.backends.tensorflow_serving.versions import VersionedLayout
from orchestrator.backends.tensorflow_serving.warmup import WARMUP_FILE, warmup_records
from orchestrator.backends.tensorflow_serving.wire import decode, encode, refusal
from orchestrator.process.environment import engine_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from orchestrator.backends.backend import ServingSettings
    from orchestrator.backends.layout import Layout
    from orchestrator.spec.signature import Signature
    from orchestrator.spec.types import HttpWire

__all__ = ["TENSORFLOW_SERVING", "TensorFlowServing"]

_VERSION = 1
"""The only version in a rendered folder."""


class TensorFlowServing(ServingBackend):
    """See `orchestrator.backends.backend.ServingBackend`."""

    name = "tensorflow-serving"
    runtimes = MappingProxyType(
        {"saved-model": InProcess("orchestrator.frameworks.tensorflow.runtime:open_saved_model", ("tensorflow",))}
    )
    tools = ("tensorflow", "numpy")
    containers = True
    extras = MappingProxyType({"docker": "TensorFlow Serving from its image, if its program is not on the PATH"})
    server = Server(
        dockerfile="tensorflow-serving.Dockerfile.jinja",
        base=IMAGE,
        gpu_base=f"{IMAGE}-gpu",
        port=config.REST_PORT,
        metrics_port=config.REST_PORT,
        metrics_path=config.METRICS_PATH,
        metrics=METRICS,
        live_path="",  # every path waits behind requests, so an overloaded server would be restarted
        protocol="JSON of TensorFlow Serving's REST API",
        request_seconds=0,  # SIGTERM ends it at once
        answers_after_sigterm=False,
        packaged=False,
        readme="tensorflow-serving.md.jinja",
        processes=1024,  # a thread for each request that waits
    )

    def runtime_decides(self, *, served: bool) -> bool:  # noqa: ARG002
        """Yes: its server does not come with a package, so it is often not available."""
        return True

    def refuses_on_cuda(self, format_name: str, precision: str, devices: int) -> str | None:  # noqa: ARG002
        """Several devices."""
        if devices == 1:
            return None
        return (
            "TensorFlow Serving only runs a model on its first device; set `hardware.count: 1`, and use more devices with "
            "`serving.replicas`"
        )

    def unavailable(self, devices: int = 0) -> Unavailable | None:
        """Neither `tensorflow_model_server` on the PATH nor its image in a Docker Engine, with what to do."""
        return missing(devices)

    def present(self, devices: int = 0) -> Mapping[str, Any] | bool:
        """The program or the image that would be started."""
        found = found_program(devices)
        return False if found is None else found.as_json()

    def program(self, devices: int = 0) -> Program | None:
        """The program on the PATH, else the image."""
        return found_program(devices)

    def notes(self, devices: int = 0) -> tuple[str, ...]:
        """That the program listens on all interfaces, which no flag changes; or that the Docker Engine does not respond."""
        if (failure := engine_failure()) is not None:
            note = f"the Docker Engine could not be asked for an image of TensorFlow Serving ({failure})"
            return (f"{note}, so saved-model is only measured without a server",)
        found = found_program(devices)
        if found is None or found.name != PROGRAM:
            return ()
        note = f"{PROGRAM} has no flag for an address, so while it is measured or serves here, it listens on all interfaces"
        return (
            f"{note} and can be reached past the gateway; use a firewall, or its image, which only listens on loopback",
        )

    def devices(self, folder: Path) -> int:
        """The number of devices in `server.json`."""
        return config.TensorFlowServingJson.read(folder).devices

    def signature(self, folder: Path, name: str) -> Signature:  # noqa: ARG002 - it serves one model
        """The signature in `server.json`."""
        return config.TensorFlowServingJson.read(folder).model.signature

    def queue(self, folder: Path, name: str) -> str:  # noqa: ARG002 - it serves one model
        """`max_enqueued_batches` of batching.config, which is only there if requests are batched."""
        file = folder / "batching.config"
        batches = config.enqueued_batches(file.read_text(encoding="utf-8")) if file.is_file() else None
        return "" if batches is None else f"{batches} batches"

    def image_values(self, settings: ServingSettings) -> Mapping[str, Any]:
        """The flags of its command."""
        return {"flags": config.flags(settings)}

    def layout(self, folder: Path, name: str) -> Layout:
        """Several versions of one model, served together."""
        return VersionedLayout(folder, name)

    def refuses(self, signature: Signature) -> str | None:
        """A dtype that its REST API does not support, such as float16."""
        return refusal(signature)

    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        """Write `models/NAME/1/` with its warm-up records, the three configuration files, `flags.txt` and `server.json`.

        Raises:
            FileNotFoundError: the variant has no SavedModel.
            ValueError: the REST API does not support the dtype of a tensor.
        """
        if reason := refusal(settings.signature):
            raise ValueError(reason)
        source = model_file(settings.format, variant)
        if not (source / "saved_model.pb").is_file():
            raise FileNotFoundError("the variant has no saved_model/saved_model.pb")
        version = folder / "models" / settings.name / str(_VERSION)
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            # Records of the original model are for its own signature, and a failing record would fail the load.
            if path.is_file() and relative.as_posix() != WARMUP_FILE:
                copy_file(path, version / relative)
        if settings.samples is not None:
            write_file(version / WARMUP_FILE, _warmup(settings, settings.samples))
        models = config.Models(
            settings.name, str(config.ROOT / "models" / settings.name), (_VERSION,), {config.LIVE: _VERSION}
        )
        write_file(folder / config.MODELS_FILE, config.models_config(models))
        write_file(folder / "monitoring.config", config.monitoring())
        if (batching := config.batching(settings)) is not None:
            write_file(folder / "batching.config", batching)
        write_file(folder / config.FLAGS_FILE, "".join(f"{flag}\n" for flag in config.flags(settings)))
        config.TensorFlowServingJson.of(settings).write(folder)

    def launch(self, folder: Path, *, port: int, scratch: Path, threads: int) -> Launch:
        """The program itself if it is on the PATH, else a container of its image."""
        module = "orchestrator.backends.tensorflow_serving.local"
        argv = (sys.executable, "-m", module, str(folder), str(scratch), str(port), str(threads))
        env = {"PYTHONDONTWRITEBYTECODE": "1", **GPU_ENVIRONMENT, **engine_environment()}
        return Launch(argv, env, scratch, container_file=scratch / CONTAINER_FILE)

    def ready_path(self, name: str) -> str:
        """Exists once the version that gets requests is loaded and warm; `/v1/models/NAME` answers 200 long before."""
        return f"/v1/models/{name}/labels/{config.LIVE}/metadata"

    def infer_path(self, name: str) -> str:
        """By label, which moves; without a label the highest version answers, even after a rollback."""
        return f"/v1/models/{name}/labels/{config.LIVE}:predict"

    def encode(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        wire: HttpWire,  # noqa: ARG002 - JSON is all that its REST API has
    ) -> tuple[bytes, Mapping[str, str]]:
        """A request as JSON, in columnar format."""
        return encode(inputs)

    def decode(
        self,
        body: bytes,
        headers: Mapping[str, str],  # noqa: ARG002
        signature: Signature,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs; the response only has names if there are several, and no dtypes."""
        return decode(body, signature)


def _warmup(settings: ServingSettings, path: Path) -> bytes:
    import numpy as np  # noqa: PLC0415 - the command line starts without numpy

    with np.load(path, allow_pickle=False) as file:
        samples = {tensor.name: file[tensor.name] for tensor in settings.signature.inputs}
    return warmup_records(samples, settings.signature, settings.name, config.batch_sizes(settings))


TENSORFLOW_SERVING = TensorFlowServing()
