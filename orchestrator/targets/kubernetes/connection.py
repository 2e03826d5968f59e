"""A cluster's API, through the package `kubernetes`: plain JSON in and out, every failure explained."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed, MloError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

__all__ = ["Cluster", "Json", "Named", "Refused", "kubeconfig_files", "named_context"]

Json = dict[str, Any]

_SECONDS = 15.0
"""How long the cluster may take for one answer."""
_AGAIN = (0.5, 1.0, 2.0)
"""Seconds before each further try of a request that a busy cluster refuses."""


class Refused(Exception):
    """The cluster answered a request with an error.

    Attributes:
        status: of HTTP.
        reason: Kubernetes' own word, such as `NotFound`; empty if it gave none.
        message: what it said.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def passes(self) -> bool:
        """Whether the same request may be answered later: the cluster is busy, or a part of it is restarting."""
        return self.status == 429 or self.status >= 500


class Cluster:
    """One cluster, as one context of the kubeconfig reaches it.

    Args:
        context: its name; None for the cluster that this process runs in.
    """

    def __init__(self, context: str | None) -> None:
        self._context = context
        self._client: ApiClient | None = None

    def __del__(self) -> None:
        """Close the connections that are kept for the next request."""
        if self._client is not None:
            self._client.close()

    @property
    def context(self) -> str | None:
        """The context's name; None for the cluster that this process runs in."""
        return self._context

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the context `{self._context}`" if self._context is not None else "the cluster that mlo runs in"

    @property
    def client(self) -> ApiClient:
        """The package's client.

        Raises:
            DeployFailed: E650 the package is missing, E651 the kubeconfig has no such context or cannot be read.
        """
        if self._client is None:
            self._client = _client(self._context)
        return self._client

    def get(self, path: str, **query: str | int) -> Json:
        """The object or the list at a path such as `/api/v1/namespaces/default/pods`.

        Args:
            path: of the API.
            query: the parameters.

        Raises:
            Refused: the cluster answered with an error.
            DeployFailed: E652 it does not answer.
        """
        return _object(self.raw("GET", path, query=query))

    def find(self, path: str) -> Json | None:
        """The same; None if there is no such object."""
        try:
            return self.get(path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
    ) -> Json:
        """One request; the answer's JSON.

        Raises:
            Refused: the cluster answered with an error.
            DeployFailed: E652 it does not answer.
        """
        return _object(self.raw(method, path, body, query=query))

    def raw(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
    ) -> bytes:
        """One request; the answer's bytes."""
        response = self._send(method, path, body, query, timeout=(5.0, _SECONDS))
        try:
            return bytes(response.read())
        except _broken() as error:
            raise self.unreachable(error) from error

    def stream(self, path: str, **query: str | int) -> Iterator[bytes]:
        """The lines of an answer that has no end, such as a log that is followed."""
        response = self._send("GET", path, None, query, timeout=(5.0, None)).response
        rest = b""
        try:
            for part in response.stream(amt=None):
                *whole, rest = (rest + part).split(b"\n")
                yield from whole
        except _broken() as error:
            raise self.unreachable(error) from error
        finally:
            response.close()
        if rest:
            yield rest

    def unreachable(self, error: Exception) -> DeployFailed:
        """Why the cluster does not answer."""
        return DeployFailed(
            Diagnostic(
                "E652",
                f"the cluster of {self.name} does not answer",
                cause=_reason(error),
                remedy=f"check that it runs and that this machine reaches {self._host()}: `kubectl cluster-info` with the"
                " same context; pods that serve keep serving",
            )
        )

    def _host(self) -> str:
        try:
            return str(self.client.configuration.host)
        except MloError:  # the message is about another problem
            return "its server"

    def _send(
        self,
        method: str,
        path: str,
        body: Json | None,
        query: Mapping[str, str | int] | None,
        *,
        timeout: tuple[float, float | None],
    ) -> Any:
        url = quote(path, safe="/:-._~") + (f"?{urlencode(query)}" if query else "")
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": kind}
        call = self.client.param_serialize(
            method=method, resource_path=url, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        for pause in (*_AGAIN, None):
            try:
                response = self.client.call_api(*call, _request_timeout=timeout)
                if 200 <= response.status < 300:
                    return response
                refused = _refused(response.status, response.read())
            except _broken() as error:
                raise self.unreachable(error) from error
            # A change that ended with 5xx may have been made; one that ended with 429 was not begun.
            if pause is None or not (refused.passes if method == "GET" else refused.status == 429):
                raise refused
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")


def kubeconfig_files() -> tuple[Path, ...]:
    """The files that `KUBECONFIG` names, else the one in the user's folder."""
    named = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return tuple(named) or (Path.home() / ".kube" / "config",)


@dataclass(frozen=True, slots=True)
class Named:
    """What a kubeconfig says of one context.

    Attributes:
        context: its name; None where the kubeconfig has no such context.
        server: the address of its cluster; empty if it has none.
    """

    context: str | None
    server: str


def named_context(context: str | None) -> Named:
    """A context of the kubeconfig; reads files alone.

    Args:
        context: its name; None for the one that `kubectl` would use.
    """
    documents = _documents()
    if context is None:
        context = next((str(each["current-context"]) for each in documents if each.get("current-context")), None)
    cluster = next((each.get("cluster") for each in _entries(documents, "contexts", context, "context")), None)
    server = next((each.get("server") for each in _entries(documents, "clusters", cluster, "cluster")), None)
    return Named(context, str(server or ""))


def _documents() -> list[Json]:
    """The kubeconfig's files; one that cannot be read is left out, since the client names the problem when it connects."""
    import yaml  # noqa: PLC0415 - only where a spec deploys to a cluster

    found: list[Json] = []
    for file in kubeconfig_files():
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(document, dict):
            found.append(document)
    return found


def _entries(documents: list[Json], kind: str, name: object, member: str) -> Iterator[Json]:
    for document in documents:
        for each in document.get(kind) or ():
            if isinstance(each, dict) and each.get("name") == name and isinstance(each.get(member), dict):
                yield each[member]


def _client(context: str | None) -> ApiClient:
    try:
        from kubernetes import config  # noqa: PLC0415 - an extra
        from kubernetes.client import ApiClient, Configuration  # noqa: PLC0415
        from kubernetes.config.config_exception import ConfigException  # noqa: PLC0415
        from urllib3.exceptions import InsecureRequestWarning  # noqa: PLC0415
    except ImportError as error:
        raise DeployFailed(
            Diagnostic(
                "E650",
                "the package kubernetes is not installed",
                cause=str(error),
                remedy="run: pip install 'mlo[kubernetes]'",
            )
        ) from error
    settings = Configuration()
    settings.retries = False  # a cluster that is gone is named at once
    files = ", ".join(str(file) for file in kubeconfig_files())
    try:
        if context is None:
            config.load_incluster_config(settings)
        else:
            config.load_kube_config(
                os.pathsep.join(map(str, kubeconfig_files())), context, settings, persist_config=False
            )
    except (ConfigException, OSError, ValueError) as error:
        raise _no_context(context, files, error) from error
    settings.retries = False
    if not settings.verify_ssl:
        # The user's kubeconfig says so for this cluster; a warning for every request would hide what matters.
        warnings.filterwarnings("ignore", category=InsecureRequestWarning)
    return ApiClient(settings)


def _no_context(context: str | None, files: str, error: Exception) -> DeployFailed:
    if context is None:
        there = any(file.exists() for file in kubeconfig_files())
        lacks = f"the kubeconfig ({files}) has no current context" if there else f"there is no kubeconfig at {files}"
        return DeployFailed(
            Diagnostic(
                "E651",
                "no cluster is configured",
                cause=f"{lacks}, and this is no pod of a cluster",
                remedy="set KUBECONFIG, choose a context with `kubectl config use-context NAME`, or name one in the spec",
                at=("deploy", "context"),
            )
        )
    known = ", ".join(str(each.get("name")) for document in _documents() for each in document.get("contexts") or ())
    return DeployFailed(
        Diagnostic(
            "E651",
            f"the kubeconfig has no usable context `{context}`",
            cause=f"{files}: {' '.join(str(error).split())}" + (f"; it has: {known}" if known else ""),
            remedy="name one that `kubectl config get-contexts` lists in `deploy: context:`, or set KUBECONFIG",
            at=("deploy", "context"),
        )
    )


def _broken() -> tuple[type[Exception], ...]:
    """What the client raises when no answer arrives."""
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415 - an extra
    from urllib3.exceptions import HTTPError  # noqa: PLC0415 - of the extra

    return (HTTPError, ApiException, OSError)


def _object(content: bytes) -> Json:
    found: Json = json.loads(content)
    return found


def _refused(status: int, content: bytes) -> Refused:
    try:
        document = json.loads(content)
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    message = str(document.get("message") or content.decode("utf-8", "replace").strip()[:300] or f"status {status}")
    return Refused(status, str(document.get("reason") or ""), message)


def _reason(error: BaseException) -> str:
    """The system's own words, from the innermost cause; else the package's."""
    innermost = error
    while (deeper := innermost.__cause__ or innermost.__context__) is not None:
        innermost = deeper
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror
    if isinstance(innermost, TimeoutError):
        return f"no answer within {_SECONDS:g} s"
    return " ".join(str(getattr(error, "reason", None) or error).split())
