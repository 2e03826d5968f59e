"""The entry point: runs the command and turns every error into a message and an exit code."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from types import ModuleType

import click

from orchestrator import __version__
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import ExitCode, MloError

__all__ = ["main"]

_COMMANDS = {
    "init": ("orchestrator.cli.init:init", "Write a first spec for a model file or folder."),
    "validate": (
        "orchestrator.cli.validate:validate",
        "Check specs and report every problem with its line.",
    ),
    "schema": ("orchestrator.cli.schema:schema", "Print the JSON Schema of specs, for editors."),
    "plan": ("orchestrator.cli.plan:plan", "Show what apply would do, and why."),
    "show": ("orchestrator.cli.plan:show", "Show a saved plan."),
    "apply": ("orchestrator.cli.apply:apply", "Convert, verify, measure, select, render and deploy."),
    "render": ("orchestrator.cli.render:render", "Write the Docker context, compose file and Helm chart."),
    "build": ("orchestrator.cli.build:build", "Build the image with the Docker Engine."),
    "push": ("orchestrator.cli.build:push", "Push the image to its registry."),
    "benchmark": ("orchestrator.cli.benchmark:benchmark", "Measure a deployment or another server, or compare two."),
    "predict": ("orchestrator.cli.predict:predict", "Send inputs to a deployment and print its outputs."),
    "status": ("orchestrator.cli.status:status", "Show what is deployed and its health."),
    "logs": ("orchestrator.cli.status:logs", "Show the server log of a deployment."),
    "diff": ("orchestrator.cli.diff:diff", "Show what was changed since a deployment."),
    "history": ("orchestrator.cli.rollback:history", "Show the revisions of a deployment."),
    "rollback": ("orchestrator.cli.rollback:rollback", "Return a deployment to an earlier revision."),
    "destroy": ("orchestrator.cli.status:destroy", "Stop a deployment and delete its record."),
    "explain": (
        "orchestrator.cli.explain:explain",
        "Explain a step, a candidate, a value of the spec or an error code.",
    ),
    "report": ("orchestrator.cli.report:report", "Write a report of a decision, as a page or as Markdown."),
    "doctor": (
        "orchestrator.cli.doctor:doctor",
        "Check what this machine has and what is missing.",
    ),
    "gc": ("orchestrator.cli.gc:gc", "Delete stored results that no deployment needs any more."),
}
"""Name → location and help line. A command is imported when it is called, to keep `mlo --help` fast."""


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called.

    The pattern is "Lazily Loading Subcommands" of click's manual.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        if os.environ.get("PYDANTIC_DISABLE_PLUGINS") == "__all__":
            _import_plugin_loader()
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib  # noqa: PLC0415 - only for a misspelled command

            close = difflib.get_close_matches(args[0], _COMMANDS, 1)
            if close:
                raise click.UsageError(f"{error.message} Did you mean '{close[0]}'?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  mlo init digits.keras
  mlo validate specs/digits/digits.yaml
  mlo plan specs/digits/digits.yaml
  mlo apply specs/digits/digits.yaml --yes
  mlo predict digits --input digits.npz
""",
)
@click.version_option(__version__, prog_name="mlo")
def cli() -> None:
    """Compile a YAML spec into a verified, measured and deployed model."""


def _import_plugin_loader() -> None:
    """Import pydantic's plugin loader without the modules that only its search needs.

    The loader imports `importlib.metadata`, and with it `email`, `zipfile` and `socket`, before it looks whether the
    search is turned off: 14 ms of the 60 that any program with a pydantic model takes to start. Only its import sees
    the substitute; called in spite of all, the function does what the original does.
    """
    name = "importlib.metadata"
    if name in sys.modules:
        return
    substitute = ModuleType(name)
    substitute.__dict__["entry_points"] = lambda **wanted: importlib.import_module(name).entry_points(**wanted)
    sys.modules[name] = substitute
    try:
        importlib.import_module("pydantic.plugin._loader")
    except ImportError:
        pass  # another version of pydantic, which needs more: it imports the module itself
    finally:
        del sys.modules[name]


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit; the codes are those of `ExitCode`."""
    arguments = sys.argv[1:] if argv is None else argv
    as_json = "--json" in arguments
    # What start-up makes is there to stay: looking through it after every 700 new objects finds nothing to free.
    gc.set_threshold(50_000)
    # Pydantic's plugin search reads the metadata of every installed package, which costs 30 ms at each start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        # Without standalone mode, click returns the argument of ctx.exit(), or None.
        code = cli.main(arguments, prog_name="mlo", standalone_mode=False) or int(ExitCode.DONE)
        sys.stdout.flush()
    except MloError as error:
        code = _report(error, as_json=as_json)
    except click.UsageError as error:
        error.show()
        code = _document(
            Diagnostic("E200", error.format_message(), remedy="run the command with --help"),
            ExitCode.USAGE,
            as_json=as_json,
        )
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = _document(Diagnostic("E407", "interrupted"), ExitCode.INTERRUPTED, as_json=as_json)
    except BrokenPipeError:
        # The reader of our output has exited (`mlo status | head`); keep the interpreter from reporting it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = int(ExitCode.FAILED)
    except Exception as error:  # noqa: BLE001 - anything else is a bug in mlo and reported as such
        code = _report_bug(error, as_json=as_json)
    # Otherwise the interpreter looks through all that was imported several times more, on its way out.
    gc.freeze()
    sys.exit(code)


def _report(error: MloError, *, as_json: bool) -> int:
    from orchestrator.cli import console  # noqa: PLC0415 - only when something is wrong

    console.show_diagnostics(error.diagnostics)
    for note in getattr(error, "__notes__", ()):
        console.print_note(f"  = {note}")
    if as_json:
        console.print_json({"errors": [d.as_json() for d in error.diagnostics], **error.also})
    return int(error.exit_code)


def _document(diagnostic: Diagnostic, code: ExitCode, *, as_json: bool) -> int:
    if as_json:
        from orchestrator.cli import console  # noqa: PLC0415 - only when something is wrong

        console.print_json({"errors": [diagnostic.as_json()]})
    return int(code)


def _report_bug(error: Exception, *, as_json: bool) -> int:
    import platform  # noqa: PLC0415 - only for a bug
    import tempfile  # noqa: PLC0415
    import traceback  # noqa: PLC0415

    from orchestrator.cli import console  # noqa: PLC0415

    with tempfile.NamedTemporaryFile("w", prefix="mlo-bug-", suffix=".txt", delete=False, encoding="utf-8") as report:
        report.write(f"mlo {__version__}, Python {platform.python_version()}, {platform.platform()}\n\n")
        traceback.print_exception(error, file=report)
    message = f"a bug in mlo: {type(error).__name__}: {error}"
    console.print_note(f"error[E900]: {message}")
    console.print_note(f"  = help: please report it and attach {report.name}")
    return _document(Diagnostic("E900", message, notes=(f"report: {report.name}",)), ExitCode.BUG, as_json=as_json)
