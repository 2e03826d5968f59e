"""Becomes TensorFlow Serving on this machine: `python -m orchestrator.backends.tensorflow_serving.start FOLDER SCRATCH PORT THREADS`.

The program where it is on the PATH, else `docker run` of its image (`tensorflow_serving_found.py`). Either replaces this
process, so that a signal reaches it.

The server has no handler for SIGTERM. As a child it is ended by the signal itself; as the first process of a container the
kernel would keep the signal from it, so there a shell stands before it (`_IN_CONTAINER`).
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath

from orchestrator.backends.folder import write_file
from orchestrator.backends.tensorflow_serving.config import (
    FLAGS_FILE,
    MODELS_FILE,
    REST_PORT,
    changed_flags,
    flag_values,
    models_config,
    read_models_config,
)
from orchestrator.backends.tensorflow_serving.found import PROGRAM, local_image, missing

__all__ = ["CONTAINER_FILE", "GPU_ENVIRONMENT", "container_command", "program_command"]

GPU_ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "NVIDIA_TF32_OVERRIDE": "0",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
"""GPUs are numbered by the bus, as mlo names them. Their memory grows by what is needed, or it would take all there is; and
float32 is computed as float32, not as TF32."""

CONTAINER_FILE = "container"
"""In the scratch folder: the id of the container, where one serves."""

_ENGINE_SECONDS = 30.0
"""How long the Docker Engine may take to say which image it has: one is known to be there, and the machine may be busy."""

_IN_CONTAINER = """\
exec 3<&0
/usr/bin/tensorflow_model_server "$@" </dev/null 3<&- & server=$!
trap 'kill $server' TERM
cat <&3 >/dev/null & wait -n $server $!
code=$?
kill $server 2>/dev/null
wait $server
exit $code
"""
"""Ends the server on SIGTERM, and when the standard input ends, which it does when nobody is attached any more: a container
is no child of whoever runs it, and would outlive a `docker run` that is killed."""


def program_command(program: str, folder: Path, port: int, threads: int) -> list[str]:
    """The argument list of the program itself, run in the current folder, which is the scratch.

    A folder that was rendered for a container says where it lies there. Its models.config is written anew then, with the
    place where it lies here; a folder of this machine is served as it is, so that the server sees it change.
    """
    given = (folder / FLAGS_FILE).read_text(encoding="utf-8").splitlines()
    changes: dict[str, object] = {
        "grpc_socket_path": "grpc.sock",  # relative: the path of a Unix socket ends after 107 bytes
        "rest_api_port": port,
        "tensorflow_intra_op_parallelism": threads,
        "tensorflow_inter_op_parallelism": threads,
    }
    models = read_models_config((folder / MODELS_FILE).read_text(encoding="utf-8"))
    base = str(folder / "models" / models.name)
    if models.base != base:
        write_file(Path(MODELS_FILE), models_config(replace(models, base=base)))
        changes["model_config_file"] = MODELS_FILE
    return [program, *changed_flags(given, PurePosixPath(folder), **changes)]


def container_command(image: str, folder: Path, port: int, threads: int) -> list[str]:
    """The argument list of `docker run`: REST on loopback, nothing to write but /tmp, the CPUs that this process may use."""
    given = (folder / FLAGS_FILE).read_text(encoding="utf-8").splitlines()
    seen_at = str(PurePosixPath(flag_values(given)["model_config_file"]).parent)
    server = json.loads((folder / "server.json").read_bytes())
    memory, devices = server["memory"], server["devices"]
    options = {
        "pull": "never",
        "cidfile": CONTAINER_FILE,
        "publish": f"127.0.0.1:{port}:{REST_PORT}",
        "mount": _mount(folder, seen_at),
        "tmpfs": "/tmp:size=64m,mode=1777",  # noqa: S108 - in the container
        # As root it would read what it must not; as oneself it can read what one has made.
        "user": f"{os.getuid()}:{os.getgid()}" if os.getuid() else "65532:65532",
        "cap-drop": "ALL",
        "security-opt": "no-new-privileges:true",
        "cpuset-cpus": ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))),
        "memory": memory,
        "memory-swap": memory,
        "pids-limit": 1024,
        "entrypoint": "/bin/bash",
    }
    if devices:
        options["gpus"] = devices
    environment = [f"--env={name}={value}" for name, value in (GPU_ENVIRONMENT if devices else {}).items()]
    parallel = [f"--tensorflow_{which}_op_parallelism={threads}" for which in ("intra", "inter")]
    argv = ["docker", "run", "--rm", "--interactive", "--init", "--read-only"]
    argv += [*(f"--{name}={value}" for name, value in options.items()), *environment]
    return [*argv, image, "-c", _IN_CONTAINER, PROGRAM, *given, *parallel]


def _mount(folder: Path, target: str) -> str:
    """One line of CSV, as Docker reads it: a path may hold commas and quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(["type=bind", f"source={folder}", f"target={target}", "readonly"])
    return line.getvalue()


def _main(folder: str, scratch: str, port: str, threads: str) -> None:
    os.chdir(scratch)
    program = shutil.which(PROGRAM)
    if program is not None:
        argv = program_command(program, Path(folder), int(port), int(threads))
    else:
        devices = json.loads((Path(folder) / "server.json").read_bytes())["devices"]
        try:
            image = local_image(devices, _ENGINE_SECONDS)
        except ConnectionError as error:
            sys.exit(f"{PROGRAM}: the Docker Engine does not say which images it has: {error}")
        if image is None:
            sys.exit(f"{PROGRAM}: {missing(devices)}")
        # A server that is started again finds the file of the one before, and docker would refuse to write over it.
        Path(CONTAINER_FILE).unlink(missing_ok=True)
        argv = container_command(image, Path(folder), int(port), int(threads))
        # An input that ends when this process does, and not before: it holds both ends itself.
        read, write = os.pipe()
        os.dup2(read, 0)
        os.set_inheritable(write, True)  # noqa: FBT003 - no keyword
    os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    _main(*sys.argv[1:5])
