"""Checks of `serving.tls`: where the files are, and whether a server on this machine could use them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.certificates import flaw_of
from orchestrator.spec.document import span_of
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.yaml_tree import Node, quoted

__all__ = ["tls_problems"]


def tls_problems(spec: ModelDeployment, root: Node) -> list[Diagnostic]:
    """What is wrong with the places, and with the files if they are used here."""
    if spec.serving.tls is None:
        return []
    return [*_before_it(spec, root), *_secret_places(spec, root), *_certificate(spec, root)]


def _before_it(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    """A server that nothing would speak TLS with."""
    if not spec.deploy.passes_tls:
        yield Diagnostic(
            "E679",
            "an InferenceService does not take requests over TLS",
            span_of(root, ("serving", "tls"), key=True),
            label="would be spoken by the pods",
            cause="KServe's routes send plain HTTP to the pods, which could not answer it",
            remedy="remove it, and let KServe's gateway have the certificate; or deploy `as: deployment`",
            at=("serving", "tls"),
        )


def _secret_places(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    """Folders of secrets that a pod could not mount: each Secret is one folder, and none lies in another's."""
    tls, auth = spec.serving.tls, spec.serving.auth
    if tls is None:
        return
    folder = Path(tls.certificate).parent
    if Path(tls.key).parent != folder or tls.key == tls.certificate:
        yield Diagnostic(
            "E480",
            "the certificate and its key are not two files of one folder",
            span_of(root, ("serving", "tls", "key")),
            cause="Kubernetes mounts both from one Secret",
            remedy=f"put the key beside the certificate, such as {folder / 'tls.key'}",
        )
    if auth is None:
        return
    tokens = Path(auth.token_file).parent
    if tokens.is_relative_to(folder) or folder.is_relative_to(tokens):
        yield Diagnostic(
            "E480",
            f"the tokens and the certificate would be mounted into one another: {quoted(tokens)} and {quoted(folder)}",
            span_of(root, ("serving", "auth", "token_file")),
            cause="Kubernetes mounts each Secret as a folder of its own",
            remedy="put them into two folders, neither of which lies in the other",
        )


def _certificate(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    """What is wrong with the certificate, if a server is started on this machine; elsewhere it may be another one."""
    tls = spec.serving.tls
    if tls is None or not spec.deploy.starts_here or find_spec("cryptography") is None:
        return  # planning says that the package is missing
    flaw = flaw_of(Path(tls.certificate), Path(tls.key))
    if flaw is not None:
        key = "key" if flaw.file == tls.key else "certificate"
        yield Diagnostic(
            "E481", flaw.problem, span_of(root, ("serving", "tls", key)), cause=flaw.cause, remedy=flaw.remedy
        )
