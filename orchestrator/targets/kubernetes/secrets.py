"""The Secrets that the server reads: whether they are there, and which certificate the pods must show.

Keys and tokens are never looked at, only whether there are any.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.spec.certificates import flaw_of_certificate
from orchestrator.targets.certificate import Expected, first_certificate
from orchestrator.targets.kubernetes.connection import Cluster, Refused, named_context
from orchestrator.targets.kubernetes.objects import namespaced
from orchestrator.targets.kubernetes.refusals import refusal_error

__all__ = ["expected_in", "require_certificate", "require_tokens"]

_TLS, _AUTH = ("serving", "tls"), ("serving", "auth")
_STANDARD = ("tls.crt", "tls.key")
"""The keys of a Secret of the type kubernetes.io/tls."""


def require_certificate(cluster: Cluster, namespace: str, tls: Mapping[str, Any]) -> None:
    """Check the Secret before anything is computed. One that this user may not read is left to the pods, which name it then.

    Args:
        cluster: where it is.
        namespace: of the deployment.
        tls: the chart's values `tls`.

    Raises:
        DeployFailed: E663 there is no such Secret, or it lacks one of its keys; E481 clients would refuse the certificate; E652.
    """
    name, crt, key = str(tls["secret"]), _key(tls["certificate"]), _key(tls["key"])
    says = f"the server reads its certificate from the Secret's key {crt}, and its private key from {key}"
    data = _data(cluster, namespace, name, (crt, key), says, _TLS, ", or let cert-manager make it")
    if data is None:
        return
    pem = base64.b64decode(data[crt])
    if (flaw := flaw_of_certificate(f"the Secret `{name}`", pem)) is not None:
        raise DeployFailed(
            Diagnostic("E481", flaw.problem, cause=flaw.cause, remedy=flaw.remedy, at=(*_TLS, "certificate"))
        )


def require_tokens(cluster: Cluster, namespace: str, auth: Mapping[str, Any]) -> None:
    """The same for the Secret with the tokens that the server accepts.

    Args:
        cluster: where it is.
        namespace: of the deployment.
        auth: the chart's values `auth`.

    Raises:
        DeployFailed: E663 there is no such Secret, or it lacks the key, or nothing is in it; E652.
    """
    name, key = str(auth["secret"]), _key(auth["tokenFile"])
    says = f"the server reads the tokens that it accepts, one per line, from the Secret's key {key}"
    _data(cluster, namespace, name, (key,), says, _AUTH)


def _data(
    cluster: Cluster,
    namespace: str,
    name: str,
    keys: tuple[str, ...],
    says: str,
    at: tuple[str, ...],
    otherwise: str = "",
) -> Mapping[str, str] | None:
    """What is in a Secret that must have these keys, each with something in it; None if this user may not read it."""
    try:
        secret = cluster.find(namespaced("v1", namespace, "secrets", name))
    except Refused as refused:
        if refused.status == 403:
            return None
        raise refusal_error(cluster, namespace, refused) from refused
    data: Mapping[str, str] = {} if secret is None else secret.get("data") or {}
    if lacking := [each for each in keys if not data.get(each)]:
        gone = secret is None
        raise DeployFailed(
            Diagnostic(
                "E663",
                f"there is no Secret `{name}` in the namespace `{namespace}`"
                if gone
                else f"the Secret `{name}` in the namespace `{namespace}` lacks {' and '.join(lacking)}",
                cause=says,
                remedy=f"run `{_command(cluster, namespace, name, keys, replaced=not gone)}`"
                f" where the file{'s are' if len(keys) > 1 else ' is'}{otherwise}",
                at=(*at, "secret") if gone else at,
            )
        )
    return data


def expected_in(cluster: Cluster, namespace: str, tls: Mapping[str, Any]) -> Expected:
    """The certificate in the Secret.

    Args:
        cluster: where it is.
        namespace: of the deployment.
        tls: the chart's values `tls`.
    """
    name, crt = str(tls["secret"]), _key(tls["certificate"])
    where = f"the Secret `{name}`"

    def read() -> bytes:
        try:
            data = cluster.get(namespaced("v1", namespace, "secrets", name)).get("data") or {}
            return first_certificate(base64.b64decode(data.get(crt, "")))
        except Refused as refused:
            raise refusal_error(cluster, namespace, refused) from refused
        except ValueError as error:
            raise DeployFailed(
                Diagnostic(
                    "E482",
                    f"the server's certificate cannot be read from {where}",
                    cause=str(error),
                    remedy=f"put the certificate there, as PEM, under {crt}",
                )
            ) from error

    return Expected(where, read)


def _key(file: str) -> str:
    """Of the Secret: the file's name, under which it is mounted."""
    return PurePosixPath(file).name


def _command(cluster: Cluster, namespace: str, name: str, keys: tuple[str, ...], *, replaced: bool) -> str:
    """What makes the Secret; one that is there is removed first, and a namespace that mlo has yet to make is made."""
    context = [] if cluster.context in (None, named_context(None).context) else ["--context", str(cluster.context)]
    place = ["--namespace", namespace, *context]
    if keys == _STANDARD:
        words = ["create", "secret", "tls", name, f"--cert={keys[0]}", f"--key={keys[1]}"]
    else:
        words = ["create", "secret", "generic", name, *(f"--from-file={key}" for key in keys)]
    commands = [["kubectl", *words, *place]]
    if replaced:
        commands.insert(0, ["kubectl", "delete", "secret", name, *place])
    elif _lacks_namespace(cluster, namespace):
        commands.insert(0, ["kubectl", "create", "namespace", namespace, *context])
    return "; ".join(map(shlex.join, commands))


def _lacks_namespace(cluster: Cluster, namespace: str) -> bool:
    try:
        return cluster.find(f"/api/v1/namespaces/{namespace}") is None
    except Refused:  # this user may not look
        return False
