"""The base of the store's JSON documents: frozen, without unknown keys and without conversions between types."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["Record", "first_problem"]


class Record(BaseModel):
    """A stored value; `model_validate_json` reads what `model_dump_json` wrote, and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


def first_problem(error: ValidationError) -> str:
    """What is wrong first, and where: `deployments.digits.revision: input should be a valid integer`."""
    problem = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, problem["loc"]))
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{where}: {message}" if where else message
