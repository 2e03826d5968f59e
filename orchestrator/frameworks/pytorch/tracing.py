"""Makes TorchScript of a module: traces it, finds the lines of Python that the trace froze, and scripts what it would freeze.

A trace records what the code did on one input. Where Python itself read a tensor (a branch, a number, a NumPy array), the
record has the outcome for that input as a constant. PyTorch warns of most such lines (`TracerWarning`), not of
`torch.equal`, `torch.allclose` and the like; all of them are found here.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from orchestrator.artifacts.variant_facts import FrozenLine
from orchestrator.frameworks.pytorch.export import converting, depends_on_values, exported, innermost
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.pytorch.export import TorchJob

__all__ = ["Script", "script_ways"]

_TORCH = Path(torch.__file__).parent
_MLO = Path(__file__).parents[2]

_BETWEEN = frozenset({__file__, warnings.__file__, str(_TORCH / "_tensor.py"), str(_TORCH / "overrides.py")})
"""Files between a line that reads a tensor and what notices it."""

_SILENT = frozenset(
    {
        *(torch.equal, torch.allclose, torch.is_nonzero),
        *(torch.Tensor.equal, torch.Tensor.allclose, torch.Tensor.is_nonzero, torch.Tensor.__contains__),
    }
)
"""Functions that read a tensor's values and give Python a bool, without a warning of the tracer that names the caller."""


@dataclass(frozen=True, slots=True)
class Script:
    """A module as TorchScript.

    Attributes:
        frozen: the lines whose outcome it has as constants, which the spec accepts.
    """

    module: Any
    frozen: tuple[FrozenLine, ...] = ()


def script_ways(job: TorchJob, refused: BaseException | None = None) -> list[tuple[str, Callable[[], Script]]]:
    """How to make TorchScript of the job's module, by name: the first that raises nothing and passes its check is right.

    Each raises a StepError: E422 it is not possible, E428 it would freeze a line.

    Args:
        job: what to make it of.
        refused: what torch.export raised, if it was asked: the line that it stopped at is one that a trace may freeze.
    """
    named = _stopped_at(refused)

    @cache
    def first() -> tuple[Any, list[_Read]]:
        module, reads = _trace(job, ())
        return module, list(dict.fromkeys((*reads, *named)))

    def trace() -> Script:
        module, reads = first()
        _refuse(job, reads)
        return Script(module)

    def trace_of_scripted_parts() -> Script:
        parts = _modules_with(job.module, first()[1])
        module, reads = _trace(job, parts) if parts else first()
        _refuse(job, reads)
        return Script(module)

    def accepted_trace() -> Script:
        module, reads = first()
        lines = _refuse(job, reads, job.accept_traced)
        return Script(module, lines)

    ways = [("trace", trace), ("script", lambda: Script(_script(job, job.module))), ("parts", trace_of_scripted_parts)]
    return [*ways, ("accepted", accepted_trace)] if job.accept_traced else ways


def _refuse(job: TorchJob, reads: Sequence[_Read], accepted: frozenset[str] = frozenset()) -> tuple[FrozenLine, ...]:
    """The lines that a trace froze.

    Raises:
        StepError: E428, one of them is not accepted.
    """
    lines = tuple(_frozen_line(read, job.project) for read in reads)
    if not (refused := [line for line in lines if line.place not in accepted]):
        return lines
    places = ", ".join(dict.fromkeys(line.place for line in refused))
    raise StepError(
        "E428",
        "tracing would freeze what the model's code decides by a tensor",
        cause="a trace keeps what the samples lead to as a constant: "
        + "; ".join(f"{x.place}: {x.code}" for x in refused),
        remedy="write it with torch.where, torch.cond and sizes as they are, or so that torch.jit.script takes it; if every request "
        f"leads to the same as the samples, accept it with `verify: {{accept_traced: [{places}]}}`",
    )


def _stopped_at(refused: BaseException | None) -> list[_Read]:
    """The line of the model's code that torch.export stopped at because it depends on values; none for other reasons."""
    if refused is None or not depends_on_values(refused):
        return []
    frames = traceback.extract_tb(innermost(refused).__traceback__)
    own = [frame for frame in frames if not _is_below(frame.filename, _TORCH, _MLO)]
    reads = [_Read(frame.filename, frame.lineno or 0, "branch") for frame in own[-1:]]
    return [read for read in reads if not _is_only_a_check(read)]


def _script(job: TorchJob, module: torch.nn.Module) -> Any:
    # The compiler's errors share no base class.
    with converting(job, "TorchScript"):
        return torch.jit.script(module)


def _trace(job: TorchJob, scripted: Sequence[str]) -> tuple[Any, list[_Read]]:
    """A trace of the module, and the lines that it froze.

    Args:
        job: the module.
        scripted: names of submodules that are scripted beforehand, so that the trace calls them as they are.
    """
    reads = _Reads()
    # Tracing runs the model's code and raises what that raises.
    with _scripted_parts(job, scripted), converting(job, "TorchScript"), reads.watched(), torch.no_grad():
        module = torch.jit.trace(job.module, job.args, check_trace=False, strict=False)
    lines = [read for read in dict.fromkeys(reads.found) if not _is_only_a_check(read)]
    # torch.export proves that a branch goes the same way for all declared sizes, and refuses one on values.
    if any(read.what == "branch" for read in lines) and _exports(job):
        lines = [read for read in lines if read.what != "branch"]
    return module, lines


def _exports(job: TorchJob) -> bool:
    try:
        exported(job, "TorchScript")
    except StepError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Read:
    """A line of Python that read a tensor while it was traced."""

    file: str
    line: int
    what: Literal["branch", "value"]


class _Reads(TorchFunctionMode):  # type: ignore[misc]
    """Collects the lines that read a tensor's values or its sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Read] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Collect in this block."""
        with warnings.catch_warnings(), self:
            warnings.simplefilter("ignore")
            # Not with PyTorch's own filter, which leaves out every module whose name begins with "torch".
            warnings.simplefilter("always", torch.jit.TracerWarning)
            warnings.showwarning = self._warned
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and note the line that called it."""
        del types
        if func in _SILENT:
            self._add("branch")
        return func(*args, **(kwargs or {}))

    def _warned(self, message: Warning | str, *_: Any, **__: Any) -> None:
        self._add("branch" if "Python boolean" in str(message) else "value")

    def _add(self, what: Literal["branch", "value"]) -> None:
        frame = sys._getframe(1)  # noqa: SLF001 - a whole stack for each call of a model would be slow
        while frame.f_back is not None and frame.f_code.co_filename in _BETWEEN:
            frame = frame.f_back
        # PyTorch's own layers are written for the tracer.
        if not _is_below(frame.f_code.co_filename, _TORCH):
            self.found.append(_Read(frame.f_code.co_filename, frame.f_lineno, what))


def _is_only_a_check(read: _Read) -> bool:
    """Whether the line belongs to an assertion, or to an `if` that only raises: its other way gives no result."""
    try:
        tree = ast.parse("".join(linecache.getlines(read.file)))
    except SyntaxError:  # not Python that can be read, such as generated code
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and node.lineno <= read.line <= (node.end_lineno or node.lineno):
            return True
        if isinstance(node, ast.If) and node.test.lineno <= read.line <= (node.test.end_lineno or node.lineno):
            return not node.orelse and all(isinstance(each, ast.Raise) for each in node.body)
    return False


def _frozen_line(read: _Read, project: Path) -> FrozenLine:
    roots = [project, *(Path(entry) for entry in sys.path if entry)]
    file = Path(read.file)
    names = [file.relative_to(root).as_posix() for root in roots if file.is_relative_to(root)]
    name = names[0] if file.is_relative_to(project) else min(names, key=len, default=file.name)
    return FrozenLine(file=name, line=read.line, code=linecache.getline(read.file, read.line).strip(), what=read.what)


def _is_below(file: str, *folders: Path) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _modules_with(module: torch.nn.Module, reads: Sequence[_Read]) -> list[str]:
    """The names of the submodules in whose classes the lines are, without those inside of each other."""
    found: list[str] = []
    for name, part in module.named_modules():
        if name and not any(name.startswith(f"{outer}.") for outer in found) and _has_any(type(part), reads):
            found.append(name)
    return found


def _has_any(kind: type, reads: Sequence[_Read]) -> bool:
    try:
        file = inspect.getsourcefile(kind)
        source, start = inspect.getsourcelines(kind)
    except (OSError, TypeError):  # generated, or written in C
        return False
    return any(read.file == file and start <= read.line < start + len(source) for read in reads)


@contextmanager
def _scripted_parts(job: TorchJob, names: Sequence[str]) -> Iterator[None]:
    """Replace submodules by their scripts in this block."""
    before: list[tuple[torch.nn.Module, str, torch.nn.Module]] = []
    try:
        for name in names:
            parent, _, own = name.rpartition(".")
            owner = job.module.get_submodule(parent)
            part = owner.get_submodule(own)
            script = _script(job, part)
            before.append((owner, own, part))
            setattr(owner, own, script)
        yield
    finally:
        for owner, own, part in before:
            setattr(owner, own, part)
