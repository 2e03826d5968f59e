"""Exported programs as modules that take their tensors by position, whatever the structure they were exported with."""

from __future__ import annotations

from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree

from orchestrator.frameworks.pytorch.stand_ins import StandIn, as_dictionaries

__all__ = ["ProgramByPosition", "by_position", "tensor_inputs"]


class ProgramByPosition(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """An exported program that was given keyword arguments, nested inputs, constants such as None, or that returns objects.

    Args:
        program: as loaded.

    Attributes:
        names: of the tensors that a call takes, in order, as in the program's graph.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.names = tensor_inputs(program)
        self._structure = program.call_spec.in_spec
        self._leaves = _user_inputs(program)
        # Not eval(): a program has no modes, and raises if one is set.
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The program's own result; objects are dictionaries of their fields.

        Raises:
            TypeError: the number of tensors is not that of `names`.
        """
        if len(tensors) != len(self.names):
            raise TypeError(
                f"the program takes {len(self.names)} tensors ({', '.join(self.names)}), not {len(tensors)}"
            )
        given = iter(tensors)
        leaves = [leaf.value if isinstance(leaf, ConstantArgument) else next(given) for leaf in self._leaves]
        arguments, keywords = pytree.tree_unflatten(leaves, self._structure)
        return as_dictionaries(self.program(*arguments, **keywords))


def by_position(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """The program as a module that is called with its tensors in the order of its graph.

    Args:
        program: as loaded; on the CPU.
    """
    arguments, keywords = program.call_spec.in_spec.children()
    plain = keywords.num_children == 0 and all(each.is_leaf() for each in arguments.children())
    constants = any(isinstance(leaf, ConstantArgument) for leaf in _user_inputs(program))
    if plain and not constants and not _has_objects(program.call_spec.out_spec):
        module: torch.nn.Module = program.module()
        return module
    return ProgramByPosition(program)


def _has_objects(structure: Any) -> bool:
    return (isinstance(structure.type, type) and issubclass(structure.type, StandIn)) or any(
        map(_has_objects, structure.children())
    )


def tensor_inputs(program: torch.export.ExportedProgram) -> list[str]:
    """The names in the graph of the inputs that are not constants, in order."""
    return [str(leaf.name) for leaf in _user_inputs(program) if not isinstance(leaf, ConstantArgument)]


def _user_inputs(program: torch.export.ExportedProgram) -> list[Any]:
    """The leaves of the structure that a call takes, in order."""
    return [each.arg for each in program.graph_signature.input_specs if each.kind is InputKind.USER_INPUT]
