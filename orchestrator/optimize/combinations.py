"""The variants worth trying of one format: derived from the table of passes, from what the model holds, and from the machine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.passes import Given, PassRow, passes_of
from orchestrator.optimize.transform import Transform
from orchestrator.optimize.variants import Pass, Variant
from orchestrator.spec.gates import PRECISIONS, Precision

if TYPE_CHECKING:
    from orchestrator.machine.here import Here
    from orchestrator.spec.source_models import SourceKind

__all__ = ["combined", "relaxed", "runs_on", "variants_to_try"]


def variants_to_try(
    format_name: str,
    source: SourceKind,
    here: Here,
    *,
    samples: bool,
    operators: frozenset[str] | None = None,
    precisions: Collection[Precision] = PRECISIONS,
) -> tuple[Variant, ...]:
    """Every variant that makes sense, each once: first those of no or one pass, then longer chains, then other options.

    Varied options stand alone, without passes of the graph; `combined` joins what was found to help.

    Args:
        format_name: of the variants.
        source: kind of the source.
        here: the machine, and the packages that are installed.
        samples: whether there are real samples.
        operators: of the converted model, as its facts name them; None if it is not converted yet.
        precisions: that are allowed.

    Returns:
        None at all if the format is not made of this source.
    """
    conversion = FORMATS[format_name].convert[source]
    if not isinstance(conversion, Transform) or source in conversion.not_from:
        return ()
    given = Given(operators, here.fingerprint["architecture"], here.cpu_flags, samples)
    rows = [
        row
        for row in _made(format_name, source)
        if row.needs.met(given) and (row.precision is None or row.precision in precisions)
    ]
    rows = [row for row in rows if isinstance(row.made, Transform) and not here.missing(row.made.tools)]
    chains = sorted(_chains(rows), key=len)
    found = [_variant(format_name, conversion, chain) for chain in chains]
    for row in rows:
        found += [
            _variant(format_name, conversion, [row], trial.options) for trial in row.trials if trial.needs.met(given)
        ]
    allowed = [variant for variant in found if variant.precision in precisions]
    return tuple({variant.identity: variant for variant in allowed}.values())


def combined(variants: Iterable[Variant]) -> Variant | None:
    """The variant with all the passes of these, in the table's order.

    Args:
        variants: of one format and one conversion; at least one.

    Returns:
        None where there would be two precisions, or one pass twice with different options.
    """
    first, *others = variants
    if any((other.format, other.conversion) != (first.format, first.conversion) for other in others):
        raise ValueError(f"only variants of one conversion can be combined, not {first.name} with those of another")
    passes: dict[str, Pass] = {}
    for each in (each for variant in (first, *others) for each in variant.passes):
        if passes.setdefault(each.name, each) != each:
            return None
    rows = [row for row in passes_of(first.format) if row.name in passes]
    if not _compatible(rows):
        return None
    return Variant(first.format, first.conversion, tuple(passes[row.name] for row in rows), _precision(rows))


def runs_on(variant: Variant, backend: str) -> bool:
    """Whether the backend, which runs the format, also runs what the variant's passes make of it."""
    limits = {row.name: row.backends for row in passes_of(variant.format) if row.backends}
    return all(backend in limits.get(each.name, {backend}) for each in variant.passes)


def relaxed(variant: Variant) -> Variant | None:
    """What to try where a variant failed its gates: the same with a pass that changes less; None if no pass can."""
    options = {row.name: row.relaxed for row in passes_of(variant.format) if row.relaxed is not None}
    passes = tuple(
        Pass(each.name, each.transform, each.options.joined(options[each.name]))
        if each.name in options and each.options is not None
        else each
        for each in variant.passes
    )
    return None if passes == variant.passes else Variant(variant.format, variant.conversion, passes, variant.precision)


def _made(format_name: str, source: SourceKind) -> Iterator[PassRow]:
    for row in passes_of(format_name):
        if isinstance(row.made, Transform) and source not in row.made.not_from:
            yield row


def _chains(rows: list[PassRow]) -> Iterator[list[PassRow]]:
    """All sets of these passes that may be combined, each in the table's order."""
    for size in range(len(rows) + 1):
        for chain in combinations(rows, size):
            if _compatible(chain):
                yield list(chain)


def _compatible(rows: Collection[PassRow]) -> bool:
    if len([row for row in rows if row.precision is not None]) > 1:
        return False
    # A pass that starts from the source model does not see what earlier ones did.
    return not any(isinstance(row.made, Transform) and row.made.from_source for row in list(rows)[1:])


def _precision(rows: Iterable[PassRow]) -> Precision:
    return next((row.precision for row in rows if row.precision is not None), "fp32")


def _variant(format_name: str, conversion: Transform, rows: list[PassRow], options: object = None) -> Variant:
    passes = []
    for row in rows:
        assert isinstance(row.made, Transform), "rows without a function were left out"
        passes.append(Pass(row.name, row.made, options))  # type: ignore[arg-type] # checked by Pass
    return Variant(format_name, conversion, tuple(passes), _precision(rows))
