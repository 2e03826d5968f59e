"""The roles of steps' inputs that are made of a name: the one place that builds them and takes them apart."""

from __future__ import annotations

__all__ = ["ROUND", "WEIGHTS", "file_role", "is_source", "is_verdict", "variant_of", "variant_role", "verdict_role"]

WEIGHTS = "weights"
"""The model as given: its file, the first of its files, or its folder."""

ROUND = "round"
"""The report of the search's round before a step."""

_FILE, _VARIANT, _VERDICT = "file:", "variant:", "verdict:"


def file_role(name: str) -> str:
    """A further file of the model as given, by its path relative to the folder of the first."""
    return f"{_FILE}{name}"


def is_source(role: str) -> bool:
    """Whether it is a file of the model as given."""
    return role == WEIGHTS or role.startswith(_FILE)


def variant_role(variant: str) -> str:
    """The folder of a variant, by the variant's name."""
    return f"{_VARIANT}{variant}"


def variant_of(role: str) -> str | None:
    """The name of the variant that has this role; None for any other input."""
    return role.removeprefix(_VARIANT) if role.startswith(_VARIANT) else None


def verdict_role(candidate: str) -> str:
    """What `verify` left, by the candidate's name."""
    return f"{_VERDICT}{candidate}"


def is_verdict(role: str) -> bool:
    """Whether it is what `verify` left of some candidate."""
    return role.startswith(_VERDICT)
