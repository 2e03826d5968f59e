"""`mlo report`: a decision and all that it rests on, as one page to open, or as Markdown for a pull request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from orchestrator.cli import console
from orchestrator.cli.options import find_store, open_store, spec_options
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.report.evidence import Evidence
    from orchestrator.store.store import Store

__all__ = ["report"]


@click.command(
    epilog="""\b
Examples:
  mlo report digits --output report.html                     open it with a browser; it needs no network
  mlo report specs/digits/digits.yaml --output report.html
  mlo report digits --format markdown                        for a pull request, to standard output
"""
)
@click.argument("what", metavar="NAME|SPEC")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it. An earlier report is replaced.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "markdown"]),
    default="html",
    show_default=True,
    help="`markdown` goes to standard output without --output.",
)
@spec_options
def report(
    what: str, output: Path | None, form: Literal["html", "markdown"], platform: Path | None, environment: str | None
) -> None:
    """Write a report: the decision, the measurements with their confidence, the gates and the fate of every candidate.

    Of a deployment, that of its latest run, also if nothing won; of a spec, that of its present form. Runs and changes nothing.
    """
    if output is None and form == "html":
        raise click.UsageError("A page needs --output FILE; --format markdown prints.")
    from orchestrator.cli.deployments import is_name  # noqa: PLC0415 - not needed for the help

    store = find_store()
    if is_name(what, store):
        evidence = _latest(store, what)
    else:
        store = open_store(Path(what).parent)
        evidence = _of_spec(store, what, platform, environment)
    from orchestrator.report.build import make_report  # noqa: PLC0415 - not needed for the help

    made = make_report(evidence)
    if form == "markdown":
        from orchestrator.report import markdown  # noqa: PLC0415 - only for this form

        text, mark = markdown.markdown(made), markdown.MARK
    else:
        from orchestrator.report import html  # noqa: PLC0415 - only for this form

        text, mark = html.html(made), html.MARK
    if output is None:
        console.print_file(text.removesuffix("\n"))
        return
    _write(output, text.encode(), mark.encode())
    console.print_result(f"{output}: {len(text.encode()) / 1e3:,.0f} kB")


def _latest(store: Store, name: str) -> Evidence:
    """Of the latest run under a name, whether it was deployed or nothing won.

    Raises:
        UsageError: E602, there was none in this store.
    """
    from orchestrator.cli.deployments import latest_decision  # noqa: PLC0415 - not needed for the help
    from orchestrator.report.evidence import find_evidence  # noqa: PLC0415 - likewise

    receipt = latest_decision(store, name, "report")
    deployment = store.state.read().deployments.get(name)
    return find_evidence(store, receipt, lambda step: store.receipts.latest(step, name), deployment)


def _of_spec(store: Store, spec: str, platform: Path | None, environment: str | None) -> Evidence:
    """Of a spec in its present form.

    Raises:
        UsageError: E602, it is not decided yet.
    """
    from orchestrator.engine.planning import make_plan  # noqa: PLC0415 - not needed for the help
    from orchestrator.report.evidence import find_evidence  # noqa: PLC0415 - likewise
    from orchestrator.store.receipts import Receipt  # noqa: PLC0415 - likewise

    planned = make_plan(Path(spec), store, platform=platform, environment=environment)
    store.stat_cache.save()
    steps = {step.id: step for step in planned.preview.steps}

    def receipt_of(step: str) -> Receipt | None:
        found = steps.get(step)
        return (
            None if found is None or found.key is None or found.status != "cached" else store.receipts.read(found.key)
        )

    receipt = receipt_of("select")
    if receipt is None or receipt.manifest is None:
        raise UsageError(
            Diagnostic(
                "E602",
                f"there is no decision yet for {spec} in its present form",
                cause=f"the store is {store.home.root}",
                remedy=f"run `mlo apply {spec}`, which measures and decides",
            )
        )
    deployment = store.state.read().deployments.get(planned.plan.name)
    return find_evidence(store, receipt, receipt_of, deployment)


def _write(output: Path, text: bytes, mark: bytes) -> None:
    """Write the file; of those that are there, only an earlier report is replaced.

    Raises:
        UsageError: E216, it is a folder or another file.
        StoreFailed: E701, it cannot be written.
    """
    from orchestrator.store.atomic import write_atomic  # noqa: PLC0415 - not needed for the help
    from orchestrator.store.failures import store_errors  # noqa: PLC0415 - likewise

    with store_errors("write", output):
        if output.is_dir():
            raise UsageError(
                Diagnostic("E216", f"{output} is a folder", remedy="name a file in it, such as report.html")
            )
        if output.exists():
            if not output.is_file():  # a device would be replaced by the report, and a pipe waited for
                raise UsageError(
                    Diagnostic(
                        "E216",
                        f"{output} is no regular file",
                        remedy="name a file, such as report.html; --format markdown without --output prints",
                    )
                )
            with output.open("rb") as file:
                begins = file.read(len(mark))
            if begins and begins != mark:
                raise UsageError(
                    Diagnostic(
                        "E216",
                        f"{output} is not a report of this form",
                        cause="only an earlier report is replaced",
                        remedy="choose another file, or remove it",
                    )
                )
    write_atomic(output, text)
