"""Step functions that behave and misbehave, run by real workers in the engine's tests."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from orchestrator.artifacts.document import Document
from orchestrator.frameworks.source.user_code import build
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import CodeAccess
from tests.artifacts import made


class Length(Document):
    """How long the text of `write` is."""

    NAME: ClassVar[str] = "length"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "length.json"

    length: int


def write(context: StepContext) -> dict[str, Any]:
    """Writes its parameter and its length, and notes in a file outside that it ran."""
    Length(length=len(context.params["text"])).write(context.output)
    (context.output / "text.txt").write_text(str(context.params["text"]), encoding="utf-8")
    with Path(context.params["runs"]).open("a", encoding="utf-8") as runs:
        runs.write("x")
    return {}


def write_as_the_version_says(context: StepContext) -> dict[str, Any]:
    """Writes its length as the version of mlo would that a file outside names."""
    write(context)
    version = int(Path(context.params["version"]).read_text("utf-8"))
    document = json.loads((context.output / Length.FILE).read_text("utf-8"))
    (context.output / Length.FILE).write_text(json.dumps({**document, "version": version}), encoding="utf-8")
    return {}


def read_length(context: StepContext) -> dict[str, Any]:
    (context.output / "text.txt").write_text(str(Length.read(context.inputs["text"]).length), encoding="utf-8")
    return {}


def refuse_with_reasons(context: StepContext) -> dict[str, Any]:
    """Is refused, and leaves its length as the reason."""
    write(context)
    raise StepError("E499", "too long", cause="it is a test", keeps_output=bool(context.params["keeps_output"]))


def judge(context: StepContext) -> dict[str, Any]:
    """Writes a verdict: failed where the text is short."""
    made.verdict(passed=len((context.inputs["text"] / "text.txt").read_text("utf-8")) > 1).write(context.output)
    return {}


def join(context: StepContext) -> dict[str, Any]:
    texts = [
        (path / "text.txt").read_text(encoding="utf-8") for _, path in sorted(context.inputs.items()) if path.is_dir()
    ]
    (context.output / "text.txt").write_text("+".join(texts), encoding="utf-8")
    return {}


def read_beside(context: StepContext) -> dict[str, Any]:
    """Every input, and the file that lies beside the weights in a folder of its own."""
    texts = [context.inputs[role].read_text(encoding="utf-8") for role in sorted(context.inputs)]
    beside = context.inputs["weights"].parent / "data" / "part.bin"
    (context.output / "text.txt").write_text("+".join([*texts, beside.read_text(encoding="utf-8")]), encoding="utf-8")
    return {}


def read_weights(context: StepContext) -> dict[str, Any]:
    (context.output / "text.txt").write_text(context.inputs["weights"].read_text(encoding="utf-8"), encoding="utf-8")
    return {}


def read_text(context: StepContext) -> dict[str, Any]:
    (context.output / "text.txt").write_text(context.inputs["text"].read_text(encoding="utf-8"), encoding="utf-8")
    return {}


def fates(context: StepContext) -> dict[str, Any]:
    (context.output / "text.txt").write_text(context.inputs["fates"].read_text(encoding="utf-8"), encoding="utf-8")
    return {}


def builds(context: StepContext) -> dict[str, Any]:
    """Writes what the user's factory makes, as the import step would."""
    access = CodeAccess(tuple(context.params["path"]), tuple(context.params["env"]))
    made = build("blocks:make", {}, context.project, access)
    (context.output / "text.txt").write_text(made, encoding="utf-8")
    return {}


def imports_user_code(context: StepContext) -> dict[str, Any]:
    sys.path.insert(0, str(context.project))
    import blocks  # type: ignore[import-not-found] # a module of the test's own project

    (context.output / "text.txt").write_text(blocks.WORD, encoding="utf-8")
    return {}


def refuse(context: StepContext) -> dict[str, Any]:
    raise StepError(
        "E499",
        "cannot do it",
        cause="it is a test",
        remedy="do not ask",
        at=("metadata", "name"),
        notes=("more: this",),
    )


def fail(context: StepContext) -> dict[str, Any]:
    raise RuntimeError("nobody foresaw this\nsecond line")


def segfault(context: StepContext) -> dict[str, Any]:
    print("about to crash", flush=True)
    ctypes.string_at(0)
    return {}


def kill_itself(context: StepContext) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def exit_silently(context: StepContext) -> dict[str, Any]:
    os._exit(3)


def run_out_of_memory(context: StepContext) -> dict[str, Any]:
    raise MemoryError


def hang(context: StepContext) -> dict[str, Any]:
    """Hangs with a child of its own, whose pid it leaves in a file."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(context.params["pids"]).write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
    context.progress("hanging", 0.5)
    time.sleep(600)
    return {}


def hang_alone(context: StepContext) -> dict[str, Any]:
    Path(context.params["pids"]).write_text(f"{os.getpid()}", encoding="utf-8")
    time.sleep(600)
    return {}


def refuse_beside(context: StepContext) -> dict[str, Any]:
    """Refuses once another step has left its pid in a file."""
    while not Path(context.params["pids"]).exists():
        time.sleep(0.05)
    return refuse(context)


def slow(context: StepContext) -> dict[str, Any]:
    Path(context.params["pids"]).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(2)
    (context.output / "text.txt").write_text("done", encoding="utf-8")
    return {}


def change_the_weights(context: StepContext) -> dict[str, Any]:
    context.inputs["weights"].write_text("changed meanwhile", encoding="utf-8")
    return {}


def show_environment(context: StepContext) -> dict[str, Any]:
    (context.output / "text.txt").write_text(
        "\n".join(f"{name}={value}" for name, value in sorted(os.environ.items())), encoding="utf-8"
    )
    return {}


def connect(context: StepContext) -> dict[str, Any]:
    """Tries to reach a server of the test's on this machine."""
    with socket.create_connection(("127.0.0.1", context.params["port"]), timeout=10):
        (context.output / "text.txt").write_text("reached", encoding="utf-8")
    return {}


def _write_to_a_full_disk() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refuse_for_want_of_room(context: StepContext) -> dict[str, Any]:
    """As a converter that wraps whatever goes wrong."""
    try:
        _write_to_a_full_disk()
    except OSError as error:
        raise StepError("E499", "cannot convert it") from error


def refuse_for_want_of_files(context: StepContext) -> dict[str, Any]:
    """As a converter that wraps whatever goes wrong."""
    raise StepError("E499", "cannot convert it") from OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def change_the_weights_and_refuse(context: StepContext) -> dict[str, Any]:
    change_the_weights(context)
    return refuse(context)


def imports_and_changes_user_code(context: StepContext) -> dict[str, Any]:
    imports_user_code(context)
    (context.project / "blocks.py").write_text("WORD = 'two'\n", encoding="utf-8")
    return {}
