"""The command line of the server."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from .config import ServerConfig, load_config
from .digest import check_digests
from .errors import StartError
from .logs import set_up_logs

__all__ = ["main"]

_OVERRIDDEN = ("host", "port", "grpc_port", "threads", "drain_seconds")


def main(argv: list[str] | None = None) -> int:
    """Run the server and return its exit code; see `errors` and docs/server.md."""
    parser = argparse.ArgumentParser(description="Serve an ONNX model with the Open Inference Protocol v2.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="path of server.json")
    parser.add_argument("--host", help="overrides `host` of the file")
    parser.add_argument("--port", type=int, help="overrides `port` of the file; 0 selects a free port, which is logged")
    parser.add_argument("--grpc-port", type=int, help="overrides `grpc_port` of the file; 0 selects a free port")
    parser.add_argument("--threads", type=int, help="overrides `threads` of the file")
    parser.add_argument("--drain-seconds", type=float, help="overrides `drain_seconds` of the file")
    parser.add_argument("--handover", type=int, metavar="FD", help="an inherited socket that brings listening sockets")
    options = parser.parse_args(argv)
    set_up_logs("info")
    try:
        config = load_config(options.config)
        given = {name: getattr(options, name) for name in _OVERRIDDEN}
        config = replace(config, **{name: value for name, value in given.items() if value is not None})
        set_up_logs(config.log_level)
        digests: Future[None] = Future()
        # A daemon, so that the process can exit without waiting for it.
        threading.Thread(target=_check, args=(config, digests), name="digests", daemon=True).start()
        # Imported late: a wrong configuration is reported before the slow import of ONNX Runtime, and the model's
        # files are read in the meantime.
        from .lifecycle import run_server  # noqa: PLC0415

        run_server(config, digests, options.handover)
    except StartError as error:
        logging.getLogger("mlo").error("%s", error)  # noqa: TRY400 - the message is complete without a traceback
        return error.exit_code
    return 0


def _check(config: ServerConfig, digests: Future[None]) -> None:
    try:
        check_digests(config.model)
    except StartError as error:
        digests.set_exception(error)
    else:
        digests.set_result(None)


if __name__ == "__main__":
    sys.exit(main())
