"""The keys of `serving:` that decide what a server takes and from whom."""

# No `from __future__ import annotations`: see models.py.
from typing import Annotated

from pydantic import AfterValidator, Field

from orchestrator.spec.strict import Strict
from orchestrator.spec.types import Collector, Duration, Origin, SecretFile, SecretName, Size

__all__ = ["Auth", "Cors", "Limits", "Tls", "Traces"]


def _body(size: int) -> int:
    if not 2**10 <= size <= 2**31:
        raise ValueError("expected a size from 1Ki to 2Gi")
    return size


def _timeout(seconds: float) -> float:
    if not 0.001 <= seconds <= 3600:
        raise ValueError("expected a duration from 1ms to 1h")
    return seconds


class Limits(Strict):
    """What the server refuses; what is not set is chosen by mlo."""

    max_body: Annotated[Size, AfterValidator(_body)] | None = Field(
        default=None, description="The largest request, from 1Ki to 2Gi.", examples=["16Mi"]
    )
    max_connections: int | None = Field(
        default=None,
        ge=16,
        le=2**20,
        description="HTTP connections at the same time; probes and `mlo` itself need a few of them.",
    )
    request_timeout: Annotated[Duration, AfterValidator(_timeout)] | None = Field(
        default=None,
        description="How long a request may take to arrive, and again to be answered; from 1ms to 1h.",
        examples=["10s"],
    )
    queue: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="Rows that may wait while the model is busy; more are refused at once.",
    )


class Auth(Strict):
    """Who may send requests: whoever knows a token. The spec says where tokens are, never what they are."""

    token_file: SecretFile = Field(
        description="The file with the accepted tokens, one per line, each of at least 16 characters; the same path on this "
        "machine, in the container and in the pod.",
        examples=["/run/secrets/digits/token"],
    )
    secret: SecretName | None = Field(
        default=None,
        description="The Kubernetes Secret with this file, under the file's name; by default the name of the deployment "
        "and `-token`.",
        examples=["digits-token"],
    )


class Cors(Strict):
    """Whose pages may send requests from a browser."""

    origins: list[Origin] = Field(
        min_length=1,
        max_length=64,
        description="Where the pages come from; `*` for anywhere.",
        examples=[["https://app.example.com"]],
    )


class Traces(Strict):
    """Where the server sends spans of its requests, as OpenTelemetry."""

    endpoint: Collector = Field(
        description="The collector's URL for OTLP over HTTP; `/v1/traces` is appended.",
        examples=["http://collector.observability:4318"],
    )
    sample: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="The fraction of requests whose trace begins here; a client's own trace is continued as the client has it.",
        examples=[0.1],
    )


class Tls(Strict):
    """The server's certificate. The spec says where it and its key are, never what the key is."""

    certificate: SecretFile = Field(
        description="The certificate as PEM, followed by those of the authorities between it and a known one; the same path on "
        "this machine, in the container and in the pod.",
        examples=["/run/secrets/digits-tls/tls.crt"],
    )
    key: SecretFile = Field(
        description="The certificate's private key as PEM, not encrypted, in the same folder.",
        examples=["/run/secrets/digits-tls/tls.key"],
    )
    secret: SecretName | None = Field(
        default=None,
        description="The Kubernetes Secret with both files, under their names; by default the name of the deployment and "
        "`-tls`.",
        examples=["digits-tls"],
    )
