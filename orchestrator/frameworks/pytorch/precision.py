"""Makes bfloat16 variants of a PyTorch model: weights and arithmetic in bfloat16, inputs and outputs as declared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from orchestrator.frameworks.pytorch.convert import script_of
from orchestrator.frameworks.pytorch.export_failure import conversion_failed
from orchestrator.frameworks.pytorch.job import TorchJob, exported, prepare, saved_program
from orchestrator.frameworks.source.variant_facts import write_facts

if TYPE_CHECKING:
    from orchestrator.steps import StepContext

__all__ = ["Bfloat16", "exported_program_to_bf16", "torchscript_to_bf16"]


class Bfloat16(torch.nn.Module):  # type: ignore[misc]
    """A module in bfloat16 behind an interface that is unchanged: numpy and the serving protocols know no bfloat16.

    Args:
        module: turned into bfloat16 in place.
        outputs: the dtypes that the model's outputs have.
    """

    def __init__(self, module: torch.nn.Module, outputs: tuple[torch.dtype, ...]) -> None:
        super().__init__()
        self.model = module.to(torch.bfloat16)
        self._outputs = outputs
        # Not eval(): what is inside has its mode already, and a loaded exported program refuses to be given one.
        self.training = False

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The model's outputs, in their own dtypes, in order."""
        narrow = [tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor for tensor in inputs]
        leaves = [leaf for leaf in pytree.tree_leaves(self.model(*narrow)) if isinstance(leaf, torch.Tensor)]
        return tuple(leaf.to(dtype) for leaf, dtype in zip(leaves, self._outputs, strict=True))


def torchscript_to_bf16(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.pt` in bfloat16; inputs and parameters as in `torch_convert.to_torchscript`.

    Raises:
        StepError: E422 it does not convert, E423 it differs from the bfloat16 model that it was made of.
    """
    context.progress("loading the model", 0.0)
    job = _narrowed(prepare(context))
    context.progress("tracing", 0.2)
    how, checked = script_of(job, context.output / "model.pt", context.progress)
    return write_facts(context, {"format": "torchscript", "precision": "bf16", "exporter": how, "checked": checked})


def exported_program_to_bf16(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.pt2` in bfloat16; inputs and parameters as in `torch_convert.to_exported_program`.

    Raises:
        StepError: E422 it does not convert, E423 it differs from the bfloat16 model that it was made of.
    """
    context.progress("loading the model", 0.0)
    job = _narrowed(prepare(context))
    context.progress("exporting", 0.2)
    saved_program(exported(job, "a bfloat16 program"), context.output / "model.pt2")
    context.progress("checking the exported program", 0.6)
    checked = job.check("exported-program", context.output)
    return write_facts(
        context,
        {"format": "exported-program", "precision": "bf16", "exporter": "torch.export", "checked": checked},
    )


def _narrowed(job: TorchJob) -> TorchJob:
    """The job with its module in bfloat16, which has been called once."""
    try:
        with torch.inference_mode():
            dtypes = tuple(
                leaf.dtype for leaf in pytree.tree_leaves(job.module(*job.args)) if isinstance(leaf, torch.Tensor)
            )
            module = Bfloat16(job.module, dtypes)
            module(*job.args)
    # The model's code may mix dtypes in any way; what it raises then is the reason.
    except Exception as error:
        failure = conversion_failed("bfloat16", error, frozenset(job.signature.dims))
        remedy = "let the model's code take dtypes from its weights instead of naming float32, or leave bf16 out"
        failure.diagnostic = replace(failure.diagnostic, remedy=remedy)
        raise failure from error
    return replace(job, module=module)
