"""How a backend runs a variant, apart from the variant itself: threads, instances, graph optimization, provider, batching.

Plain dataclasses, since processes that are measured import them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from math import inf
from typing import Any, ClassVar, Literal, get_args

__all__ = ["DEFAULT_OPTIONS", "Batching", "GraphOptimization", "RuntimeOptions", "session_options"]

GraphOptimization = Literal["all", "extended", "basic", "disabled"]
"""ONNX Runtime's levels of graph optimization."""

_PROVIDER = re.compile(r"[A-Za-z]{1,40}ExecutionProvider")


@dataclass(frozen=True, slots=True)
class Batching:
    """How a server batches requests.

    Attributes:
        max_size: most rows of a batch; 1 turns batching off.
        max_delay: seconds that the first request of a batch waits for others.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    max_size: int
    max_delay: float

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        if self.max_size < 1 or not 0 <= self.max_delay < inf:
            raise ValueError("of batching, max_size is at least 1 and max_delay is at least 0")


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """The options of a runtime. None and the other defaults keep the backend's own behaviour.

    Attributes:
        threads: for the operators of one call of one instance; None: `hardware.cpus`, divided among the instances.
        instances: copies of the model in one server.
        graph_optimization: how far the runtime rewrites the graph when it loads it.
        execution_provider: of ONNX Runtime; None: the one of the accelerator.
        batching: None: as the spec's `serving.batching` says.
        spinning: whether threads of ONNX Runtime spin while they wait for each other: calls may be shorter, and CPU time is lost to
            everything else in the container.
        memory_arena: whether ONNX Runtime keeps the memory of calls for the next ones.

    Raises:
        ValueError: a number is less than 1, or a text is none that the option can have: it becomes part of names.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    threads: int | None = None
    instances: int = 1
    graph_optimization: GraphOptimization = "all"
    execution_provider: str | None = None
    batching: Batching | None = None
    spinning: bool = False
    memory_arena: bool = True

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        if self.instances < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError("threads and instances are at least 1")
        if self.graph_optimization not in get_args(GraphOptimization):
            known = ", ".join(get_args(GraphOptimization))
            raise ValueError(f"graph_optimization is one of {known}, not {self.graph_optimization!r}")
        if self.execution_provider is not None and not _PROVIDER.fullmatch(self.execution_provider):
            raise ValueError(f"{self.execution_provider!r} is not the name of an execution provider")

    def changed(self) -> tuple[str, ...]:
        """The names of the options that are not the defaults, sorted."""
        if self == DEFAULT_OPTIONS:
            return ()
        return tuple(sorted(f.name for f in fields(self) if getattr(self, f.name) != getattr(DEFAULT_OPTIONS, f.name)))

    def suffix(self) -> str:
        """The suffix of a candidate's name: `+instances=2+threads=1`; empty for the defaults."""
        return "".join(f"+{name}={_shown(getattr(self, name))}" for name in self.changed())

    def threads_of(self, cpus: float) -> int:
        """Threads of one instance of a server that has so many CPUs; at least 1."""
        return self.threads or max(1, int(cpus) // self.instances)

    def total_threads(self, cpus: float) -> int:
        """Threads of all instances of a server that has so many CPUs."""
        return self.threads_of(cpus) * self.instances


DEFAULT_OPTIONS = RuntimeOptions()


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value.max_size}:{value.max_delay:g}" if isinstance(value, Batching) else str(value)


def session_options(options: RuntimeOptions) -> dict[str, str | bool]:
    """The options, besides threads, for opening a variant in a process: those that are not the defaults."""
    names = ("graph_optimization", "execution_provider", "spinning", "memory_arena")
    return {name: getattr(options, name) for name in names if name in options.changed()}
