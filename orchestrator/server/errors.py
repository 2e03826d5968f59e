"""Errors of requests and of the server's start."""

from __future__ import annotations

__all__ = ["BAD_CONFIG", "BAD_MODEL", "UNAVAILABLE", "RequestError", "StartError"]

# Exit codes, from sysexits.h where one fits. Restarting does not help with any of them.
BAD_CONFIG = 65
"""server.json is missing, unreadable or wrong."""
BAD_MODEL = 66
"""The model file is missing, has a different digest than in server.json, or cannot be run."""
UNAVAILABLE = 69
"""Something is not available on this machine: the execution provider, the port."""


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: the HTTP status.
        message: the error message for the client.
        reason: one word for metrics and logs, such as `invalid` or `queue_full`.
        retry_after: seconds after which the client should retry; None if retrying does not help.
        headers: header lines of the HTTP answer, each with its line end.
    """

    def __init__(
        self, status: int, message: str, *, reason: str = "invalid", retry_after: int | None = None, headers: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after = retry_after
        self.headers = headers if retry_after is None else f"{headers}retry-after: {retry_after}\r\n"


class StartError(Exception):
    """The server cannot start; carries the exit code of the process."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
