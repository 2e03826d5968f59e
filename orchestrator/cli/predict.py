"""`mlo predict`: send inputs to a deployment and print its outputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import console
from orchestrator.cli.deployments import find_deployment
from orchestrator.cli.options import find_store, json_option

__all__ = ["predict"]


@click.command(
    epilog="""\b
Examples:
  mlo predict digits --input specs/digits/digits.npz
  mlo predict digits --input request.json --json
\b
A JSON file contains {"image": [[...]]} or an Open Inference Protocol request.
"""
)
@click.argument("name")
@click.option(
    "--input", "input_", required=True, type=click.Path(path_type=Path), metavar="FILE", help="A .json or .npz file."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    help="How many seconds to wait for the answer.",
)
@json_option
def predict(name: str, input_: Path, timeout: float, as_json: bool) -> None:
    """Send inputs to a deployment and print its outputs.

    Without a batch dimension, a file may hold several requests: its arrays then have one more dimension in front, as in samples.
    """
    from orchestrator.backends.table import serving_backend  # noqa: PLC0415 - imports numpy, which would slow down the help
    from orchestrator.release.go_live import target_of  # noqa: PLC0415
    from orchestrator.release.served import served_by  # noqa: PLC0415
    from orchestrator.targets.client import infer, read_requests  # noqa: PLC0415

    store = find_store()
    deployment = find_deployment(store, name)
    target = target_of(deployment, store)
    url = target.url()
    served = served_by(store, deployment)
    certificate = None if served.certificate is None else target.certificate(served.certificate, url)
    requests = read_requests(input_, served.signature)
    backend = serving_backend(deployment.backend)

    def ask(inputs: Any) -> Any:
        return infer(
            url,
            backend,
            name,
            inputs,
            timeout=timeout,
            signature=served.signature,
            max_body=served.max_body,
            token_file=served.token_file,
            certificate=certificate,
        )

    answers = [ask(inputs) for inputs in requests.inputs]
    if as_json:
        values = [{output: _json_numbers(array.tolist()) for output, array in each.items()} for each in answers]
        together = {tensor.name: [each[tensor.name] for each in values] for tensor in served.signature.outputs}
        console.print_json({"outputs": together if requests.counted else values[0]})
        return
    for number, outputs in enumerate(answers, start=1):
        if requests.counted:
            console.print_result(f"request {number}:")
        for output, array in outputs.items():
            dtype = "string" if array.dtype.kind == "U" else array.dtype
            console.print_result(f"{output}: {dtype} {list(array.shape)}")
            console.print_result(str(array))


def _json_numbers(value: Any) -> Any:
    """Nested lists with NaN and infinities as texts, as in the answers of mlo's server."""
    if isinstance(value, list):
        return [_json_numbers(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
