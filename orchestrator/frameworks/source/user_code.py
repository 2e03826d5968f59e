"""Imports and calls the user's factory, and locates failures in the user's code."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.machine.user_code import is_own, reading
from orchestrator.steps.context import StepError
from orchestrator.steps.failures import is_of_network
from orchestrator.steps.parameters import CodeAccess
from orchestrator.steps.reasons import headline_with_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["AT_FACTORY", "build", "raised_at", "raised_notes"]

AT_FACTORY = ("model", "source", "factory")
NO_ACCESS = CodeAccess()


def build(reference: str, kwargs: Mapping[str, Any], project: Path, access: CodeAccess = NO_ACCESS) -> Any:
    """The result of calling `module:attribute` with `kwargs`.

    Args:
        reference: `module:attribute`.
        kwargs: its arguments.
        project: the folder that modules are imported from first.
        access: further folders that they are imported from, and the variables that the code reads.

    Raises:
        StepError: E310 the module cannot be imported, E311 it has no such attribute, E312 that cannot be called, E313 it
            does not accept the arguments, E314 it raises an exception.
    """
    with reading():
        factory = _find(reference, project, access)
        try:
            signature = inspect.signature(factory)
        except (TypeError, ValueError):  # some callables written in C have no signature
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
        # The factory is the user's code and may raise anything; the error is reported with its line.
        except (Exception, SystemExit) as error:
            raise StepError(
                "E314",
                f"`{reference}` raised {headline_with_type(error)}",
                cause=f"raised at {raised_at(error, project)}",
                remedy=_remedy_for_surroundings(error, access)
                or "correct the code, or give it other arguments in `kwargs:`",
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


def _find(reference: str, project: Path, access: CodeAccess) -> Callable[..., Any]:
    module_name, _, path = reference.partition(":")
    folders = [str(project), *(str((project / root).resolve()) for root in access.path)]
    if sys.path[: len(folders)] != folders:
        sys.path[:0] = folders
        importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise _not_found(error, module_name, project, access) from error
    except (Exception, SystemExit) as error:
        raise StepError(
            "E310",
            f"importing `{module_name}` raised {headline_with_type(error)}",
            cause=f"raised at {raised_at(error, project)}",
            remedy=_remedy_for_surroundings(error, access)
            or "correct the code; `python -c 'import " + module_name + "'` in the spec's folder shows the same",
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


def _remedy_for_surroundings(error: BaseException, access: CodeAccess) -> str:
    """What to do if the code misses a variable or the network, which a worker does not have; empty for other failures."""
    return _variable_remedy(error, access) or (_NO_NETWORK if is_of_network(error) else "")


_NO_NETWORK = (
    "the model's code runs without a network, so that its result depends only on files that mlo knows: download what it needs "
    "beforehand, and pass the path in `model.source.kwargs`"
)


def _variable_remedy(error: BaseException, access: CodeAccess) -> str:
    """What to do if the code did not find an environment variable; empty if it failed for another reason."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    # The frame of `os.environ[NAME]`.
    if not isinstance(error, KeyError) or last.name != "__getitem__" or Path(last.filename).stem.strip("<>") not in _OS:
        return ""
    name = str(error.args[0])
    if name in access.env:
        return f"set {name} in the environment of mlo; `model.source.env` passes it on"
    return f"name it in `model.source.env: [{name}]`: the code sees few of the variables that mlo sees"


_OS = {"os", "frozen os"}


def _near(missing: str, project: Path) -> str | None:
    """A folder near the project, relative to it, that has the module; None if there is none."""
    top = missing.partition(".")[0]
    for base in (project, *project.parents[:_LEVELS_UP]):
        for folder in (base, base / "src", base / "lib"):
            package = folder / top
            if folder != project and (package.with_suffix(".py").is_file() or any(package.glob("*.py"))):
                return Path(os.path.relpath(folder, project)).as_posix()
    return None


_LEVELS_UP = 3


def _not_found(error: ModuleNotFoundError, module_name: str, project: Path, access: CodeAccess) -> StepError:
    missing = error.name or module_name
    named = [*access.path, near] if (near := _near(missing, project)) is not None else []
    lies = f"it is in {near}: add `path: [{', '.join(named)}]` to `model.source`" if named else ""
    if missing == module_name or module_name.startswith(f"{missing}."):
        close = get_close_matches(missing, sorted(path.stem for path in project.glob("*.py")), n=1)
        beside = f"put {missing.replace('.', '/')}.py beside the spec, or name the folder that it is in with `model.source.path`"
        return StepError(
            "E310",
            f"there is no module `{missing}`",
            cause="it is neither in the spec's folder"
            + (", in `model.source.path`" if access.path else "")
            + " nor installed",
            remedy=lies or (f"did you mean `{close[0]}`?" if close else beside),
            at=AT_FACTORY,
        )
    return StepError(
        "E310",
        f"importing `{module_name}` raised {headline_with_type(error)}",
        cause=f"raised at {raised_at(error, project)}",
        remedy=lies
        or f"install the package that provides `{missing}` beside mlo, or name the folder that it is in with `model.source.path`",
        at=AT_FACTORY,
    )


def _origin(found: Any, project: Path) -> str:
    file = getattr(found, "__file__", None) or getattr(
        sys.modules.get(getattr(found, "__module__", "")), "__file__", None
    )
    return _relative(file, project) if file else "a built-in module"


def _is_in(filename: str, project: Path) -> bool:
    path = Path(filename)
    return is_own(path) and (path.is_relative_to(project) or path.is_file())


def _relative(filename: str, project: Path) -> str:
    path = Path(filename)
    return str(path.relative_to(project)) if is_own(path) and path.is_relative_to(project) else str(path)
