"""The command line of the server."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

from .config import load_config
from .errors import StartError
from .logs import set_up_logs

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the server; returns the exit code, see `errors` and docs/server.md."""
    parser = argparse.ArgumentParser(description="Serve an ONNX model by the Open Inference Protocol v2.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="server.json")
    parser.add_argument("--host", help="instead of the file's")
    parser.add_argument("--port", type=int, help="instead of the file's; 0 takes a free one, which the log names")
    parser.add_argument("--threads", type=int, help="instead of the file's")
    options = parser.parse_args(argv)
    set_up_logs("info")
    try:
        config = load_config(options.config)
        given = {name: getattr(options, name) for name in ("host", "port", "threads")}
        config = replace(config, **{name: value for name, value in given.items() if value is not None})
        set_up_logs(config.log_level)
        # Only now: a wrong configuration is told before the second that ONNX Runtime takes to import.
        from .lifecycle import run_server  # noqa: PLC0415

        run_server(config)
    except StartError as error:
        logging.getLogger("mlo").error("%s", error)  # noqa: TRY400 - the message says it all; a traceback would not
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
