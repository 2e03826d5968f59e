"""What a spec sets of a server apart from the model: its limits, and who may use it. Plain dataclasses, like the runtime options."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import PurePosixPath
from typing import Any, ClassVar
from urllib.parse import urlsplit

from orchestrator.spec.types import Collector, SecretFile, SecretName

__all__ = ["NO_LIMITS", "ServerAuth", "ServerLimits", "ServerTls", "ServerTraces"]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """`serving.limits`; None leaves a limit to the backend.

    Attributes:
        max_body: bytes of the largest request.
        max_connections: HTTP connections at the same time.
        request_timeout: seconds for receiving a request, and again for answering it.
        queue: rows that may wait.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    max_body: int | None = None
    max_connections: int | None = None
    request_timeout: float | None = None
    queue: int | None = None

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        whole = (self.max_body, self.max_connections, self.queue)
        if any(number is not None and number < 1 for number in whole):
            raise ValueError("a server's limits are at least 1")
        if self.request_timeout is not None and not 0 < self.request_timeout < inf:
            raise ValueError("a server's time limit is more than 0 s")


NO_LIMITS = ServerLimits()


@dataclass(frozen=True, slots=True)
class ServerAuth:
    """`serving.auth`: where the tokens are. They are checked again, since files are rendered from them.

    Attributes:
        token_file: an absolute path, the same on every machine and in containers.
        secret: the Kubernetes Secret whose key with the file's name holds the same.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    token_file: SecretFile
    secret: SecretName


@dataclass(frozen=True, slots=True)
class ServerTls:
    """`serving.tls`: where the certificate and its key are; see `ServerAuth`.

    Attributes:
        certificate, key: absolute paths in one folder, the same on every machine and in containers.
        secret: the Kubernetes Secret whose keys with the files' names hold the same.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    certificate: SecretFile
    key: SecretFile
    secret: SecretName

    @property
    def folder(self) -> str:
        """The folder of both files."""
        return str(PurePosixPath(self.certificate).parent)


@dataclass(frozen=True, slots=True)
class ServerTraces:
    """`serving.traces`: where spans are sent, and the fraction of the requests that begin a trace.

    Attributes:
        endpoint: the collector's URL, without `/v1/traces`.
        sample: from 0 to 1.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    endpoint: Collector
    sample: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an impossible fraction."""
        if not 0 <= self.sample <= 1:
            raise ValueError("the sampled fraction of traces is from 0 to 1")

    @property
    def port(self) -> int:
        """The collector's TCP port."""
        where = urlsplit(self.endpoint)
        return where.port or (443 if where.scheme == "https" else 80)
