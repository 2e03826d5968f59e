"""What can go wrong: a request that is refused, and a start that is refused."""

from __future__ import annotations

__all__ = ["BAD_CONFIG", "BAD_MODEL", "UNAVAILABLE", "RequestError", "StartError"]

# Exit codes, as in sysexits.h where one fits. None of them is cured by starting again.
BAD_CONFIG = 65
"""server.json is missing, unreadable or wrong."""
BAD_MODEL = 66
"""The model file is missing, is not the one that server.json names, or cannot be run."""
UNAVAILABLE = 69
"""The machine lacks something that was asked for: the execution provider, the port."""


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: the HTTP status.
        message: what the client is told.
        reason: one word for metrics and logs, such as `invalid` or `queue_full`.
        retry_after: seconds after which trying again makes sense, None if it does not.
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
    """Why the server does not start, with the process's exit code."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
