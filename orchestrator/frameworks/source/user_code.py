"""Imports and calls the factory from the spec's folder, and locates failures in the user's code."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["AT_FACTORY", "build", "raised_at", "raised_notes"]

AT_FACTORY = ("model", "source", "factory")


def build(reference: str, kwargs: Mapping[str, Any], project: Path) -> Any:
    """Import `module:attribute`, with `project` first on the path, and call it with `kwargs`; returns the result.

    Raises:
        StepError: E310 the module cannot be imported, E311 it has no such attribute, E312 it is not callable, E313 it does
            not accept the arguments, E314 it raised an error.
    """
    factory = _find(reference, project)
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # callables written in C may have no signature
        pass
    else:
        try:
            signature.bind(**kwargs)
        except TypeError as error:
            raise StepError(
                "E313",
                f"`{reference}` does not accept these arguments",
                cause=str(error),
                remedy=f"its signature is {signature.replace(return_annotation=inspect.Signature.empty)}; give the arguments in `kwargs:`",
                at=("model", "source", "kwargs") if kwargs else AT_FACTORY,
            ) from error
    try:
        return factory(**kwargs)
    # The user's code may raise anything; it is reported with its position and ends the step.
    except (Exception, SystemExit) as error:
        raise StepError(
            "E314",
            f"`{reference}` raised {_named(error)}",
            cause=f"raised at {raised_at(error, project)}",
            remedy="correct the code, or give it other arguments in `kwargs:`",
            at=AT_FACTORY,
        ) from error


def raised_at(error: BaseException, project: Path) -> str:
    """The innermost line of the user's code, or else the innermost line, as `file:line in function`."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_relative(error.filename, project)}:{error.lineno}"
    own = [frame for frame in frames if _is_in(frame.filename, project)]
    if not frames:
        return "an unknown place"
    frame = (own or frames)[-1]
    return f"{_relative(frame.filename, project)}:{frame.lineno} in {frame.name}"


def raised_notes(error: BaseException, project: Path) -> tuple[str, ...]:
    """A note with the line of the user's code that raised the error; none if there is no such line."""
    frames = traceback.extract_tb(error.__traceback__)
    return (f"raised at: {raised_at(error, project)}",) if any(_is_in(f.filename, project) for f in frames) else ()


def _find(reference: str, project: Path) -> Callable[..., Any]:
    module_name, _, path = reference.partition(":")
    folder = str(project)
    if sys.path[0] != folder:
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise _not_found(error, module_name, project) from error
    except (Exception, SystemExit) as error:
        raise StepError(
            "E310",
            f"importing `{module_name}` raised {_named(error)}",
            cause=f"raised at {raised_at(error, project)}",
            remedy="correct the code; `python -c 'import " + module_name + "'` in the spec's folder shows the same",
            at=AT_FACTORY,
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            owner = getattr(found, "__name__", module_name)
            close = get_close_matches(name, [n for n in dir(found) if not n.startswith("_")], n=1)
            raise StepError(
                "E311",
                f"`{owner}` has no `{name}`",
                cause=f"it was imported from {_origin(found, project)}",
                remedy=f"did you mean `{close[0]}`?"
                if close
                else f"define `{name}` there, or name what builds the model",
                at=AT_FACTORY,
            )
        found = getattr(found, name)
    if not callable(found) or (hasattr(found, "state_dict") and not isinstance(found, type)):
        raise StepError(
            "E312",
            f"`{reference}` does not build a model",
            cause=f"it is a {type(found).__name__}" + (", already built" if callable(found) else ""),
            remedy="name a class or a function that returns the model",
            at=AT_FACTORY,
        )
    factory: Callable[..., Any] = found
    return factory


def _not_found(error: ModuleNotFoundError, module_name: str, project: Path) -> StepError:
    missing = error.name or module_name
    if missing == module_name or module_name.startswith(f"{missing}."):
        close = get_close_matches(missing, sorted(path.stem for path in project.glob("*.py")), n=1)
        return StepError(
            "E310",
            f"there is no module `{missing}`",
            cause="it is neither in the spec's folder nor installed",
            remedy=f"did you mean `{close[0]}`?" if close else f"put {missing.replace('.', '/')}.py beside the spec",
            at=AT_FACTORY,
        )
    return StepError(
        "E310",
        f"importing `{module_name}` raised {_named(error)}",
        cause=f"raised at {raised_at(error, project)}",
        remedy=f"install the package that provides `{missing}`, beside mlo and in the image",
        at=AT_FACTORY,
    )


def _named(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _origin(found: Any, project: Path) -> str:
    file = getattr(found, "__file__", None) or getattr(
        sys.modules.get(getattr(found, "__module__", "")), "__file__", None
    )
    return _relative(file, project) if file else "a built-in module"


def _is_in(filename: str, project: Path) -> bool:
    path = Path(filename)
    return path.is_relative_to(project) and "site-packages" not in path.parts


def _relative(filename: str, project: Path) -> str:
    path = Path(filename)
    return str(path.relative_to(project)) if _is_in(filename, project) else str(path)
