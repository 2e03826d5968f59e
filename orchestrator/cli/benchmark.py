"""`mlo benchmark`: load one endpoint, or two in turns, and say what was measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from orchestrator.cli import console
from orchestrator.cli.options import find_store, json_option

__all__ = ["benchmark"]

_QUIET_SECONDS = 5.0


class _Quantity(click.ParamType[float]):
    """A duration or a rate as specs write them; the value is in seconds, or per second."""

    def __init__(self, name: Literal["duration", "rate"]) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - not needed for the help

        from orchestrator.spec.types import Duration, Rate  # noqa: PLC0415

        try:
            found: float = TypeAdapter[float](Duration if self.name == "duration" else Rate).validate_python(value)
        except ValidationError:
            self.fail(
                f"{value!r} is no {self.name}; write one such as {'20ms' if self.name == 'duration' else '200/s'}",
                param,
                ctx,
            )
        return found


@click.command(
    epilog="""\b
Examples:
  mlo benchmark digits
  mlo benchmark specs/digits/digits.yaml          with the service level of the spec
  mlo benchmark digits --rate 500/s --p99 20ms
  mlo benchmark digits http://localhost:9000/v2/models/digits
  mlo benchmark https://models.example.com/v2/models/digits --token-file token --input digits.npz
"""
)
@click.argument("target")
@click.argument("other", required=False)
@click.option(
    "--rate",
    type=_Quantity("rate"),
    metavar="RATE",
    help="Requests per second of the open loop, such as 200/s. Default: half of what the slower one reaches, at most 100.",
)
@click.option(
    "--p99", type=_Quantity("duration"), metavar="TIME", help="A limit on the 99th percentile to test, such as 20ms."
)
@click.option(
    "--connections",
    type=click.IntRange(1, 256),
    default=32,
    show_default=True,
    help="Connections of the closed loop, at most: a slow model gets fewer.",
)
@click.option(
    "--duration",
    type=_Quantity("duration"),
    default="30s",
    show_default=True,
    metavar="TIME",
    help="How long to measure each endpoint, at most.",
)
@click.option(
    "--input",
    "input_",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A .json or .npz file with the inputs of the requests. Default: the samples of the deployment.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file with the token that the servers at URLs ask for.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PEM certificates that servers at URLs may have or are signed by, besides those that this machine trusts.",
)
@json_option
def benchmark(
    target: str,
    other: str | None,
    rate: float | None,
    p99: float | None,
    connections: int,
    duration: float,
    input_: Path | None,
    token_file: Path | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Load a deployment, or any server of the Open Inference Protocol, and report its latency and throughput.

    TARGET and OTHER are each the NAME of a deployment, its SPEC, or the URL of a model. Two are measured in turns and compared.

    Requests of one row are sent over HTTP, on a schedule (latency counts from when a request was due) and by connections that wait
    for each answer.
    """
    from orchestrator.cli.benchmark_targets import find_endpoints  # noqa: PLC0415 - imports numpy, which would slow down the help
    from orchestrator.cli.benchmark_text import as_document, as_text  # noqa: PLC0415
    from orchestrator.measure.endpoint_benchmark import EndpointLoad, benchmark_endpoints  # noqa: PLC0415
    from orchestrator.process.termination import terminated_as_interrupted  # noqa: PLC0415
    from orchestrator.store.turns import Place, in_turn, measuring_lock  # noqa: PLC0415

    store = find_store()
    names = [each for each in (target, other) if each is not None]
    found = find_endpoints(names, store, input_=input_, token_file=token_file, ca=ca)
    load = EndpointLoad(
        seconds=duration,
        rate=found.rate if rate is None else rate,
        connections=connections,
        p99_limit=found.p99_limit if p99 is None else p99,
    )

    def waiting(place: Place) -> None:
        if place.number == 1 and place.holder:
            console.print_note(f"waiting for {place.holder}")
        else:
            console.print_note(f"waiting behind other measurements, place {place.number}")

    # Other measurements of this user wait meanwhile, and this one for them. Whatever ends it, no request with its token is left.
    with (
        terminated_as_interrupted(),
        in_turn(
            measuring_lock(store.home),
            shared=False,
            info={"what": "benchmark"},
            on_wait=waiting,
            given_up=lambda: False,
        ),
    ):
        results, compared, sent = benchmark_endpoints(found.endpoints, load, _progress())
    if as_json:
        console.print_json(as_document(results, compared, sent, found.inputs))
    else:
        console.print_result(as_text(results, compared, sent, found.inputs))


def _progress() -> Callable[[str, float | None], None]:
    """Prints what is being done, every few seconds."""
    last = 0.0

    def note(message: str, fraction: float | None = None) -> None:
        nonlocal last
        if time.monotonic() - last >= _QUIET_SECONDS:
            last = time.monotonic()
            console.print_note(f"{message}" if fraction is None else f"{message} ({fraction:.0%})")

    return note
