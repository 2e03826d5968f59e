"""Merges what was read from a model file with the spec: one signature, and the model's own names for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from orchestrator.artifacts.inspection import FoundTensor, Inspection
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.plan.dim_names import DEFAULT_BATCH, DimNames, batch_of, dim_name
from orchestrator.spec.batch_dimension import chosen_batch, declared_batch
from orchestrator.spec.batches import batch_problems
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import DtypeName, TensorIn, TensorOut
from orchestrator.spec.places import did_you_mean
from orchestrator.spec.signature import Dim, Signature, Tensor, declared_signature, declared_tensor, multiples_of

__all__ = ["PlannedModel", "called_apart", "output_names", "planned_model", "spec_name"]

_TENSOR_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}")
_DTYPES = frozenset(get_args(DtypeName))
_Role = Literal["inputs", "outputs"]


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """The model that a plan is made for.

    Attributes:
        signature: with the spec's names; output shapes may be unknown until the model was run.
        names: `inputs` and `outputs`: the spec's name of each tensor → the model's own; empty where tensors are identified by
            their position.
        files: further files of the model, relative to the folder of its file.
        notes: what a reviewer of the plan should know, a sentence each.
        one_by_one: why requests are answered one by one, a clause; empty if they can be batched, as far as it is known before the
            model has been run.
        inner_batch: the batch dimension that the spec names, if it is not the first of every input.
        was_read: whether any of it was read from the model.
    """

    signature: Signature
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    files: Sequence[str] = ()
    notes: Sequence[str] = ()
    one_by_one: str = ""
    inner_batch: str | None = None
    was_read: bool = False


def planned_model(loaded: LoadedSpec, found: Inspection | None) -> PlannedModel:
    """The model with its signature, for the plan.

    Args:
        loaded: the spec.
        found: what the step `inspect` found; None for kinds that are not inspected.

    Raises:
        SpecInvalid: E123, E126 what is batched does not fit the model, E127 a dimension has no range, E128 a tensor type that mlo does not support, E129 the spec declares what the
            model does not have.
    """
    if found is None:
        signature, batch = declared_signature(loaded.spec), declared_batch(loaded.spec)
        return PlannedModel(signature, one_by_one=batch.one_by_one(signature.dims), inner_batch=batch.inner)
    return _Joined(loaded, found).model()


def spec_name(own: str, taken: Iterable[str] = ()) -> str:
    """A name that a spec can hold for a tensor that the model calls `own`: `serving_default_x:0` → `serving_default_x_0`."""
    name = own if _TENSOR_NAME.fullmatch(own) else re.sub(r"[^A-Za-z0-9_.]+", "_", own).strip("._")[:60] or "tensor"
    if not re.match(r"[A-Za-z_]", name):
        name = f"_{name}"
    unique, number = name, 2
    while unique in set(taken):
        unique, number = f"{name}_{number}", number + 1
    return unique


def output_names(own: Sequence[str], inputs: Iterable[str]) -> list[str]:
    """Names that a spec can hold for a model's outputs: `key_out` where an input is called `key`.

    A model may hand an input through, and runs so; but in an ONNX file, no two tensors can have one name.
    """
    of_inputs = set(inputs)
    names: list[str] = []
    for each in own:
        name = spec_name(each, names)
        names.append(spec_name(f"{name}_out", {*names, *of_inputs, *own}) if name in of_inputs else name)
    return names


def called_apart(own: str, name: str) -> str:
    """The note on an output that has the name of an input, as a sentence without its end."""
    return f"the output `{own}` is called `{name}` in the spec, because an input has that name"


class _Joined:
    def __init__(self, loaded: LoadedSpec, found: Inspection) -> None:
        self._loaded = loaded
        self._spec = loaded.spec.model
        self._found = found
        self._notes = [note.text for note in found.notes]
        self._problems: list[Diagnostic] = []
        self._ranges = {dim_name(own): (low, high) for own, (low, high) in found.ranges.items()}

    def model(self) -> PlannedModel:
        inputs, input_names = self._inputs()
        self._stop_on_problems()
        batch = chosen_batch(((tensor.name, tensor.shape) for tensor in inputs), self._spec.batch)
        known = {dim for tensor in inputs for dim in tensor.shape or ()}
        outputs, own_outputs = self._outputs(batch.name, {tensor.name for tensor in inputs}, known)
        dims = self._dims(inputs, outputs, batch.name or batch.inner)
        multiples = multiples_of({name: dim for name, dim in self._spec.dims.items() if name in dims})
        if not self._spec.inputs:  # otherwise the spec's dimensions were checked when it was loaded
            of_inputs = {name: bounds for name, bounds in dims.items() if name in known}
            self._problems += batch_problems(self._loaded.spec, self._loaded.tree, batch, of_inputs, multiples)
        self._stop_on_problems()
        return PlannedModel(
            Signature(tuple(inputs), tuple(outputs), dims, batch.name, multiples),
            {"inputs": input_names, "outputs": own_outputs},
            tuple(self._found.files),
            tuple(self._notes),
            one_by_one=batch.one_by_one(dims),
            inner_batch=batch.inner,
            was_read=not self._spec.inputs or not self._spec.outputs,
        )

    def _stop_on_problems(self) -> None:
        if self._problems:
            raise SpecInvalid(*self._problems)

    def _inputs(self) -> tuple[list[Tensor], dict[str, str]]:
        everything = self._found.inputs
        if not self._spec.inputs:
            names: dict[str, str] = {}
            tensors = []
            dims = DimNames(everything, self._read_batch())
            self._check_dim_names(dims)
            for own in everything:
                name = spec_name(own.tensor, names)
                names[name] = own.tensor
                tensors.append(Tensor(name, self._dtype(own, "input"), self._shape(own, name, dims)))
            return tensors, names
        names = {}
        for index, declared in enumerate(self._spec.inputs):
            matched = self._match("inputs", index, declared, everything)
            if matched is not None:
                names[declared.name] = matched.tensor
                self._compare("inputs", index, declared, matched)
        missing = [t.tensor for t in everything if t.tensor not in names.values()]
        if missing and not self._problems:
            self._problems.append(
                Diagnostic(
                    "E129",
                    f"the model also takes {_listed(missing)}, which `inputs` does not declare",
                    self._loaded.span(("model", "inputs"), key=True),
                    remedy="declare every input, or leave out `inputs` to read them from the model",
                )
            )
        return [declared_tensor(t) for t in self._spec.inputs], names

    def _read_batch(self) -> str | None:
        """The first dimension of all inputs, unless the spec says that it is no batch."""
        batch = batch_of(self._found.inputs)
        return batch if self._spec.batch in (None, batch) else None

    def _outputs(self, batch: str | None, of_inputs: set[str], known: set[Dim]) -> tuple[list[Tensor], dict[str, str]]:
        everything = self._found.outputs
        names: dict[str, str] = {}
        tensors: list[Tensor] = []
        dims = DimNames(self._found.inputs, batch)
        if self._spec.outputs:
            for index, declared in enumerate(self._spec.outputs):
                own = self._match("outputs", index, declared, everything)
                if own is not None:
                    names[declared.name] = own.tensor
                tensors.append(Tensor(declared.name, "", None if declared.shape is None else tuple(declared.shape)))
            return tensors, names
        for own, name in zip(everything, output_names([each.tensor for each in everything], of_inputs), strict=True):
            names[name] = own.tensor
            if spec_name(own.tensor) in of_inputs:
                self._notes.append(called_apart(own.tensor, name))
            self._dtype(own, "output")
            tensors.append(Tensor(name, "", dims.output_shape(own, known)))
        return tensors, names

    def _check_dim_names(self, dims: DimNames) -> None:
        for first, other in dims.alike:
            both = f"`{first}` and `{other}` would both" if first else f"`{other}` would, like the batch dimension,"
            self._problems.append(
                Diagnostic(
                    "E129",
                    f"the model's dimension{'s' if first else ''} {both} be called `{dim_name(other)}`",
                    self._loaded.span(("model",), key=True),
                    remedy="declare `inputs` with a name of your own for each dimension",
                )
            )

    def _dtype(self, own: FoundTensor, what: str) -> str:
        if own.dtype not in _DTYPES:
            self._problems.append(
                Diagnostic(
                    "E128",
                    f"the {what} `{own.tensor}` has type {own.dtype}, which mlo does not support",
                    self._loaded.span(("model", "source")),
                    remedy=f"let the model {'take' if what == 'input' else 'return'} one of {', '.join(get_args(DtypeName))}"
                    + ("" if what == "input" else ", or declare only the other `outputs`"),
                    notes=tuple(note.text for note in self._found.notes if note.tensor == own.tensor),
                )
            )
        return own.dtype

    def _shape(self, own: FoundTensor, name: str, dims: DimNames) -> tuple[Dim, ...]:
        shape = dims.input_shape(own, name)
        if shape is None:
            self._problems.append(
                Diagnostic(
                    "E127",
                    f"the model does not say how many dimensions its input `{own.tensor}` has",
                    self._loaded.span(("model",), key=True),
                    remedy=f"declare it: `inputs: [{{name: {name}, dtype: {own.dtype}, shape: [batch, ...]}}, ...]`",
                )
            )
            return ()
        return shape

    def _dims(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], batch: str | None
    ) -> dict[str, tuple[int, int]]:
        declared = {name: dim.bounds for name, dim in self._spec.dims.items()}
        dims: dict[str, tuple[int, int]] = {}
        for tensor in (*inputs, *outputs):
            for axis, dim in enumerate(tensor.shape or ()):
                if not isinstance(dim, str) or dim in dims:
                    continue
                bounds = declared.get(dim) or self._ranges.get(dim)
                if bounds is None and dim == batch:
                    bounds = DEFAULT_BATCH
                    self._notes.append(
                        f"`dims` gives no range for `{dim}`: {DEFAULT_BATCH[0]} to {DEFAULT_BATCH[1]} is assumed"
                    )
                if bounds is None:
                    self._no_range(dim, axis, tensor)
                    continue
                dims[dim] = bounds
        for name in declared:
            if name not in dims and not self._problems:
                self._problems.append(
                    Diagnostic(
                        "E129",
                        f"the model has no dimension `{name}`",
                        self._loaded.span(("model", "dims", name), key=True),
                        label=did_you_mean(name, dims),
                        remedy=f"its open dimensions are {_listed(dims)}" if dims else "all its dimensions are fixed",
                    )
                )
        return dims

    def _no_range(self, dim: str, axis: int, tensor: Tensor) -> None:
        self._problems.append(
            Diagnostic(
                "E127",
                f"dimension `{dim}` has no range",
                self._loaded.span(("model", "dims") if self._spec.dims else ("model",), key=True),
                cause=f"dimension {axis} of `{tensor.name}` is open in the model, which does not say how large it may be",
                remedy=f"add `{dim}: {{min: 1, max: 128}}` to `model.dims`, with the sizes that requests can have",
            )
        )

    def _match(
        self, role: _Role, index: int, declared: TensorIn | TensorOut, everything: Sequence[FoundTensor]
    ) -> FoundTensor | None:
        wanted = declared.tensor or declared.name
        for same in (lambda own: own == wanted, lambda own: spec_name(own) == wanted):
            for own in everything:
                if same(own.tensor):
                    return own
        owns = [own.tensor for own in everything]
        key = "tensor" if declared.tensor is not None else "name"
        self._problems.append(
            Diagnostic(
                "E129",
                f"the model has no {role[:-1]} `{wanted}`",
                self._loaded.span(("model", role, index, key)),
                label=did_you_mean(wanted, owns),
                cause=f"its {role} are {_listed(owns)}",
                remedy=f"write `{{name: {declared.name}, tensor: {owns[0]!r}, ...}}` to rename one of them"
                if owns
                else "",
            )
        )
        return None

    def _compare(self, role: _Role, index: int, declared: TensorIn, own: FoundTensor) -> None:
        at: tuple[str | int, ...] = ("model", role, index)
        if own.dtype != declared.dtype:
            self._differs((*at, "dtype"), f"`{declared.name}` is {own.dtype} in the model", declared.dtype)
        if own.shape is None:
            return
        shown = "[" + ", ".join("?" if size is None else str(size) for size in own.shape) + "]"
        if len(own.shape) != len(declared.shape):
            self._differs((*at, "shape"), f"`{declared.name}` has the shape {shown} in the model", "a different rank")
            return
        for axis, (size, wanted) in enumerate(zip(own.shape, declared.shape, strict=True)):
            if not isinstance(size, int):
                continue
            if isinstance(wanted, str):
                bounds = self._spec.dims.get(wanted)
                fits = bounds is None or bounds.bounds == (size, size)
            else:
                fits = wanted == size
            if not fits:
                self._differs(
                    (*at, "shape", axis), f"dimension {axis} of `{declared.name}` is {size} in the model", wanted
                )

    def _differs(self, at: tuple[str | int, ...], message: str, wanted: object) -> None:
        self._problems.append(
            Diagnostic(
                "E129",
                f"{message}, but the spec declares {wanted}",
                self._loaded.span(at),
                remedy="correct it, or leave out `inputs` to read them from the model",
            )
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"
