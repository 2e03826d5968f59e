"""The JSON Schema of specs, for completion and checks in editors. `python -m orchestrator.spec.schema` writes it to `docs/`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.spec.layers import FIXED_SECTIONS
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.types import ENVIRONMENT_NAME

__all__ = ["closed", "json_schema", "partial"]

_FILE = Path(__file__).parents[2] / "docs" / "spec.schema.json"


@cache
def json_schema() -> dict[str, Any]:
    """The schema of a `ModelDeployment` file, draft 2020-12. Do not change the returned value."""
    schema = closed(ModelDeployment.model_json_schema())
    definitions: dict[str, Any] = schema.pop("$defs")
    properties: dict[str, Any] = schema["properties"]
    definitions["Overlay"] = {
        **partial(schema, definitions),
        "title": "Overlay",
        "description": "Values that differ in an environment; mappings are merged key by key, lists are replaced.",
    }
    properties["environments"] = {
        "description": "Environments by name, selected with `--environment`.",
        "type": "object",
        "patternProperties": {ENVIRONMENT_NAME: {"$ref": "#/$defs/Overlay"}},
        "additionalProperties": False,
        "maxProperties": 16,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "mlo spec",
        "description": "A model that `mlo` converts, verifies, measures and deploys: apiVersion mlo/v1, kind ModelDeployment.",
        "$defs": dict(sorted(definitions.items())),
    }


def closed(value: Any) -> Any:
    """Pydantic's schema without the titles of properties, and without additional properties where keys have a pattern."""
    if isinstance(value, list):
        return [closed(each) for each in value]
    if not isinstance(value, dict):
        return value
    done = {key: closed(each) for key, each in value.items()}
    if "properties" not in done and isinstance(done.get("title"), str):
        del done["title"]
    if "patternProperties" in done:
        done["additionalProperties"] = False
    return done


def partial(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of the sections that an overlay may contain, with nothing required and no defaults."""

    def inlined(value: Any) -> Any:
        if isinstance(value, list):
            return [inlined(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            value = {**definitions[value["$ref"].rpartition("/")[2]], **{k: v for k, v in value.items() if k != "$ref"}}
        # An object's `required` is a list of keys; a property of that name would be a mapping.
        return {
            k: inlined(v) for k, v in value.items() if k != "default" and not (k == "required" and isinstance(v, list))
        }

    changeable = {key: value for key, value in schema["properties"].items() if key not in FIXED_SECTIONS}
    sections: dict[str, Any] = inlined(changeable)
    metadata = sections["metadata"]["properties"]
    sections["metadata"]["properties"] = {key: value for key, value in metadata.items() if key != "name"}
    return {"type": "object", "additionalProperties": False, "properties": sections}


if __name__ == "__main__":
    _FILE.write_text(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
