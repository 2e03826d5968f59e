"""SavedModels on TensorFlow Serving 2.20, with every default that bites set to what holds.

The settings and their reasons are in `config.py`, the start on this machine in `local.py`, folders with several versions in
`versions.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.backends.backend import InProcess, Launch, Program, Server, ServingBackend
from orchestrator.backends.folder import copy_file, json_text, model_file, read_json, write_file
from orchestrator.backends.tensorflow_serving import config
from orchestrator.backends.tensorflow_serving.local import (
    CONTAINER_FILE,
    GPU_ENVIRONMENT,
    IMAGE,
    PROGRAM,
    engine_silence,
    found_program,
    missing,
)
from orchestrator.backends.tensorflow_serving.versions import VersionedLayout
from orchestrator.backends.tensorflow_serving.warmup import WARMUP_FILE, warmup_records
from orchestrator.backends.tensorflow_serving.wire import decode, encode, refusal
from orchestrator.spec.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from orchestrator.backends.backend import ServingSettings
    from orchestrator.backends.layout import Layout

__all__ = ["TENSORFLOW_SERVING", "TensorFlowServing"]

_VERSION = 1
"""The one version that a rendered folder holds."""


class TensorFlowServing(ServingBackend):
    """See `orchestrator.backends.backend.ServingBackend`."""

    name = "tensorflow-serving"
    runtimes = MappingProxyType(
        {"saved-model": InProcess("orchestrator.frameworks.tensorflow.runtime:open_saved_model", ("tensorflow",))}
    )
    tools = ("tensorflow", "numpy")
    extras = MappingProxyType({"docker": "TensorFlow Serving from its image, where its program is not on the PATH"})
    server = Server(
        dockerfile="tensorflow-serving.Dockerfile.jinja",
        base=IMAGE,
        gpu_base=f"{IMAGE}-gpu",
        port=config.REST_PORT,
        metrics_port=config.REST_PORT,
        metrics_path=config.METRICS_PATH,
        live_path="",  # every path waits behind requests, so an overload would look like a death
        protocol="JSON of TensorFlow Serving's REST API",
        request_seconds=0,  # SIGTERM ends it at once
        answers_after_sigterm=False,
        packaged=False,
        readme="tensorflow-serving.md.jinja",
        processes=1024,  # a thread for each request that waits
    )

    def runtime_decides(self, *, served: bool) -> bool:  # noqa: ARG002
        """Yes: its server comes in no package, so it is often not there."""
        return True

    def refuses_on_cuda(self, format_name: str, precision: str, devices: int) -> str | None:  # noqa: ARG002
        """Several devices."""
        if devices == 1:
            return None
        return (
            "TensorFlow Serving runs a model on its first device alone; with `hardware.count: 1`, "
            "`serving.replicas` use more"
        )

    def unavailable(self, devices: int = 0) -> str | None:
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
        """That the program listens on all interfaces, which no flag changes; or that the Docker Engine keeps silent."""
        if (silence := engine_silence()) is not None:
            said = f"the Docker Engine does not say whether it has TensorFlow Serving ({silence})"
            return (f"{said}, so saved-model is measured in its runtime alone",)
        found = found_program(devices)
        if found is None or found.name != PROGRAM:
            return ()
        said = (
            f"{PROGRAM} has no flag for an address: while it is measured or serves here, it listens on all interfaces"
        )
        return (
            f"{said}, past the gateway; a firewall keeps others out, and a container of its image is on loopback alone",
        )

    def devices(self, folder: Path) -> int:
        """As many as `server.json` says."""
        devices = read_json(folder / "server.json").get("devices")
        if type(devices) is not int:
            raise ValueError("server.json does not say how many devices there are")
        return devices

    def signature(self, folder: Path, name: str) -> Signature:  # noqa: ARG002 - it serves one model
        """What `server.json` says."""
        return Signature.from_json(read_json(folder / "server.json")["model"]["signature"])

    def image_values(self, settings: ServingSettings) -> Mapping[str, Any]:
        """The flags of its command."""
        return {"flags": config.flags(settings)}

    def layout(self, folder: Path, name: str) -> Layout:
        """Versions of one model, which it serves together."""
        return VersionedLayout(folder, name)

    def refuses(self, signature: Signature) -> str | None:
        """A dtype that its REST API does not speak, such as float16."""
        return refusal(signature)

    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        """Leave `models/NAME/1/` with its warm-up records, the three configuration files, `flags.txt` and `server.json`.

        Raises:
            FileNotFoundError: the variant holds no SavedModel.
            ValueError: a tensor whose dtype the REST API does not speak.
        """
        if reason := refusal(settings.signature):
            raise ValueError(reason)
        source = model_file(settings.format, variant)
        if not (source / "saved_model.pb").is_file():
            raise FileNotFoundError("the variant has no saved_model/saved_model.pb")
        version = folder / "models" / settings.name / str(_VERSION)
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            # Records that came with the model name its own signature; one that fails, fails the load.
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
        write_file(folder / "server.json", json_text(_server(settings)))

    def launch(self, folder: Path, *, port: int, scratch: Path, threads: int) -> Launch:
        """The server itself where its program is on the PATH, else a container of its image."""
        module = "orchestrator.backends.tensorflow_serving.local"
        argv = (sys.executable, "-m", module, str(folder), str(scratch), str(port), str(threads))
        return Launch(
            argv, {"PYTHONDONTWRITEBYTECODE": "1", **GPU_ENVIRONMENT}, scratch, container_file=scratch / CONTAINER_FILE
        )

    def ready_path(self, name: str) -> str:
        """Found once the version that requests go to is loaded and warm; `/v1/models/NAME` answers 200 long before."""
        return f"/v1/models/{name}/labels/{config.LIVE}/metadata"

    def infer_path(self, name: str) -> str:
        """By label, which moves; without one the highest version answers, also after a rollback."""
        return f"/v1/models/{name}/labels/{config.LIVE}:predict"

    def encode(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, Mapping[str, str]]:
        """A call as JSON, each tensor whole."""
        return encode(inputs)

    def decode(
        self,
        body: bytes,
        headers: Mapping[str, str],  # noqa: ARG002
        signature: Signature,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs; the answer names them only where there are several, and no dtypes."""
        return decode(body, signature)


def _warmup(settings: ServingSettings, path: Path) -> bytes:
    import numpy as np  # noqa: PLC0415 - the command line starts without numpy

    with np.load(path, allow_pickle=False) as file:
        samples = {tensor.name: file[tensor.name] for tensor in settings.signature.inputs}
    return warmup_records(samples, settings.signature, settings.name, config.batch_sizes(settings))


def _server(settings: ServingSettings) -> dict[str, Any]:
    """What the server's own files do not say: what it serves, and what it may use."""
    return {
        "model": {
            "name": settings.name,
            "signature": settings.signature.as_json(),
            "labels": {
                "variant": settings.variant,
                "model_digest": settings.model_digest,
                "spec_digest": settings.spec_digest,
                "decision_digest": settings.decision_digest,
            },
        },
        "cpus": settings.cpus,
        "memory": settings.memory,
        "devices": settings.devices,
    }


TENSORFLOW_SERVING = TensorFlowServing()
