"""The JSON Schema of job files, for editors and other programs: the models of `batchlic.job`, as TOML."""

from typing import Any

from pydantic import TypeAdapter

from batchlic.job import CanarySize, Job

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def job_schema() -> dict[str, Any]:
    """The schema of a job file. It accepts what `load_job` accepts, apart from rules between keys."""
    generated = Job.model_json_schema()
    properties = generated["properties"]
    properties["canary"] = {  # canary = "1%" is short for a table
        "anyOf": [{"$ref": "#/$defs/Canary"}, TypeAdapter(CanarySize).json_schema()],
        "description": properties["canary"]["description"],
    }
    return {
        "$schema": DIALECT,
        "title": "Job file of batchlic",
        **_as_toml(generated),
        "allOf": [_MIGRATION],
    }


_MIGRATION = {
    "if": {"properties": {"action": {"const": "migrate"}}, "required": ["action"]},
    "then": {
        "properties": {"license": {"required": ["from_sku", "to_sku"]}},
        "required": ["license"],
    },
    "else": {"properties": {"license": {"properties": {"from_sku": False, "to_sku": False}}}},
}
"""A migration has two SKUs, and other actions have one."""


def _as_toml(schema: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """A part of a schema without null, which TOML does not have, and without titles."""
    if isinstance(schema, list):
        return [_as_toml(part) for part in schema if part != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    parts = {
        key: {name: _as_toml(inner) for name, inner in part.items()}
        if key in {"properties", "$defs"}
        else _as_toml(part)
        for key, part in schema.items()
        if key != "title" and not (key == "default" and part is None)
    }
    if isinstance(text := parts.get("description"), str):
        parts["description"] = " ".join(text.split()).replace("; None: ", "; without it: ")
    if len(parts.get("anyOf", ())) == 1:
        [only] = parts.pop("anyOf")
        parts = {**only, **parts}
    return parts
