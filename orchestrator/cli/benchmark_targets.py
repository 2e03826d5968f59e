"""Finds what `mlo benchmark` is asked to load: deployments by name or spec, and other servers by URL."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from orchestrator.artifacts.imported import SAMPLES_FILE, Imported
from orchestrator.backends.table import serving_backend
from orchestrator.backends.wire import decode, encode_binary, encode_json
from orchestrator.cli.deployments import find_deployment
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.measure.certificate import Trust
from orchestrator.measure.endpoint_benchmark import Decode, RunningEndpoint
from orchestrator.measure.open_inference import described, made_up_inputs
from orchestrator.measure.requests import Encode, rows_of, sample_rows
from orchestrator.release.go_live import target_of
from orchestrator.release.served import served_by
from orchestrator.spec.load import load_spec
from orchestrator.spec.signature import Signature
from orchestrator.spec.types import HttpWire
from orchestrator.store.store import Store
from orchestrator.targets.certificate import Expected
from orchestrator.targets.client import token_headers
from orchestrator.targets.inputs import read_requests

__all__ = ["Found", "find_endpoints"]

_SPECS = (".yaml", ".yml")
_SCHEMES = ("http", "https")
_MODELS = "/v2/models/"


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be loaded.

    Attributes:
        endpoints: one or two, which get the same inputs.
        inputs: where these come from, in words.
        rate, p99_limit: of the first one's spec, if it was named by it: requests per second, and seconds.
    """

    endpoints: Sequence[RunningEndpoint]
    inputs: str
    rate: float | None
    p99_limit: float | None


@dataclass(frozen=True, slots=True)
class _Place:
    """A model on a server, without the inputs that it is to get."""

    label: str
    url: SplitResult
    path: str
    model: str
    encode: Encode
    decode: Decode
    wires: tuple[HttpWire, ...]
    headers: Mapping[str, str]
    trust: Trust | None
    signature: Signature
    samples: Path | None


def find_endpoints(
    targets: Sequence[str], store: Store, *, input_: Path | None, token_file: Path | None, ca: Path | None
) -> Found:
    """The endpoints, with the inputs for their requests.

    Args:
        targets: names of deployments, specs, or URLs of models; inputs are the samples of the first one that has some.
        store: which knows the deployments.
        input_: the file with the inputs instead; None for the samples.
        token_file: whose first token is sent to URLs.
        ca: certificates that servers at URLs may have or be signed by.

    Raises:
        SpecInvalid: a spec is not valid.
        UsageError: E602 no deployment has that name, E614 the inputs do not fit, E619 it does not answer, E680 a URL is not that of
            a model.
        DeployFailed: E625 there is no token.
    """
    rate = p99_limit = None
    places: list[_Place] = []
    for number, target in enumerate(targets):
        if "://" in target:
            places.append(_at_url(target, token_file, ca))
            continue
        name = target
        if target.endswith(_SPECS):
            spec = load_spec(target).spec
            name = spec.metadata.name
            if number == 0:
                rate, p99_limit = spec.slo.throughput, spec.slo.p99_latency
        places.append(_deployed(store, name))
    rows, said = _inputs(places, input_)
    return Found([_endpoint(place, rows) for place in places], said, rate, p99_limit)


def _inputs(places: Sequence[_Place], input_: Path | None) -> tuple[list[Mapping[str, Any]], str]:
    first = places[0]
    if input_ is not None:
        requests = read_requests(input_, first.signature)
        if first.signature.batch is None:
            return list(requests.inputs), f"the inputs of {input_}"
        return list(rows_of(requests.inputs[0], first.signature)), f"the rows of {input_}"
    for place in places:
        if place.samples is not None:
            kind = "samples" if Imported.read(place.samples.parent).samples == "real" else "random inputs"
            return list(sample_rows(place.samples, place.signature)), f"the {kind} of {place.label}"
    return list(made_up_inputs(first.signature)), "made-up inputs, since no file was given with --input"


def _endpoint(place: _Place, rows: Sequence[Mapping[str, Any]]) -> RunningEndpoint:
    return RunningEndpoint(
        label=place.label,
        url=place.url,
        path=place.path,
        model=place.model,
        encode=place.encode,
        decode=place.decode,
        wires=place.wires,
        inputs=rows,
        headers=place.headers,
        trust=place.trust,
    )


def _deployed(store: Store, name: str) -> _Place:
    deployment = find_deployment(store, name)
    target = target_of(deployment, store)
    endpoint = target.url()
    url, served = urlsplit(endpoint), served_by(store, deployment)
    backend = serving_backend(deployment.backend)
    imported = store.trees.path(deployment.history[-1].imported_digest) if deployment.history else None
    return _Place(
        label=name,
        url=url,
        path=backend.infer_path(name),
        model=name,
        encode=backend.encode,
        decode=partial(backend.decode, signature=served.signature),
        wires=tuple(wire for wire in backend.wires if wire != "grpc"),
        headers=token_headers(served.token_file),
        trust=None if served.certificate is None else _pinned(target.certificate(served.certificate, endpoint)),
        signature=served.signature,
        samples=None if imported is None else imported / SAMPLES_FILE,
    )


def _at_url(target: str, token_file: Path | None, ca: Path | None) -> _Place:
    url = _split(target)
    path = url.path.rstrip("/").removesuffix("/infer")
    model = path.rpartition(_MODELS)[2]
    if _MODELS not in path or not model or "/" in model or url.query or url.fragment:
        raise _no_model(target, f"its path does not end in {_MODELS}NAME", f"{url.scheme}://{url.netloc}")
    headers = token_headers(token_file)
    trust = Trust(None if ca is None else _authorities(ca), pinned=False) if url.scheme == "https" else None
    return _Place(
        label=target,
        url=url,
        path=f"{path}/infer",
        model=model,
        encode=_open_inference,
        decode=decode,
        wires=("json", "binary"),
        headers=headers,
        trust=trust,
        signature=described(url, path, headers, trust),
        samples=None,
    )


def _split(target: str) -> SplitResult:
    """The parts of a URL that can be asked.

    Raises:
        UsageError: E680, it has no host, no valid port, characters that a URL cannot have, or a password.
    """
    scheme = target.partition("://")[0]
    if "@" in target.partition("://")[2].partition("/")[0]:
        # It would be in the report, in the terminal's history and in the list of processes.
        raise UsageError(
            Diagnostic(
                "E680",
                "the URL of a model must not have a user name or a password",
                remedy="remove what is before the `@`; a token is given by --token-file",
            )
        )
    if scheme not in _SCHEMES:
        raise _no_model(target, f"servers are asked over http and https, not over {scheme}", "https://HOST:PORT")
    try:
        url = urlsplit(target)
        problem = "" if url.hostname else "it names no host"
        url.port  # noqa: B018 - which is only checked when it is read
    except ValueError as error:
        raise _no_model(target, str(error), f"{scheme}://HOST:PORT") from error
    if not problem and not (target.isascii() and target.isprintable() and " " not in target):
        problem = "it has characters that have to be written as %XX"
    if problem:
        raise _no_model(target, problem, f"{scheme}://HOST:PORT")
    return url


def _no_model(target: str, why: str, server: str) -> UsageError:
    return UsageError(
        Diagnostic(
            "E680", f"{target} is not the URL of a model", cause=why, remedy=f"write it as {server}{_MODELS}NAME"
        )
    )


def _pinned(expected: Expected) -> Trust:
    return Trust(None if expected.read is None else ssl.DER_cert_to_PEM_cert(expected.read()), pinned=True)


def _authorities(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
        ssl.create_default_context(cadata=text)
    except (OSError, ValueError) as error:
        problem = (error.strerror if isinstance(error, OSError) else None) or "it holds no certificates"
        raise UsageError(
            Diagnostic(
                "E680",
                f"there are no certificates in {file}",
                cause=problem,
                remedy="give --ca a PEM file with the certificate of the server, or of who signed it",
            )
        ) from error
    return text


def _open_inference(inputs: Mapping[str, Any], wire: HttpWire) -> tuple[bytes, Mapping[str, str]]:
    return encode_binary(inputs) if wire == "binary" else encode_json(inputs)
