"""Files that people parse: plain names, numbers as numbers, a ``schema_version``, and a JSON schema that is published.

A document is a pydantic model. NaN and infinities, which JSON has no numbers for, are the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, and the schemas say so.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

NOT_FINITE = ("NaN", "Infinity", "-Infinity")
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Plain(BaseModel):
    """Plain data: what is read back is what was written."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="strings", json_schema_serialization_defaults_required=True
    )


class Estimate(Plain):
    """A mean over ``n`` samples and its standard error (s/sqrt(n); binomial for counts)."""

    mean: float
    stderr: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.stderr:.2g}"


class Document(Plain):
    """A whole file. A subclass has ``schema_version: Literal[k] = k``, and k grows when a name or a meaning changes."""

    title: ClassVar[str]  # the name of its schema's file

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


class _Schema(GenerateJsonSchema):
    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        found = super().float_schema(schema)
        bounded = any(schema.get(key) is not None for key in ("ge", "gt", "le", "lt"))
        return found if bounded else {"anyOf": [found, {"enum": list(NOT_FINITE)}]}


def json_schema(kind: type[Document]) -> str:
    """The JSON schema of what a document's ``to_json`` writes, as text."""
    found: dict[str, Any] = kind.model_json_schema(mode="serialization", schema_generator=_Schema)
    return json.dumps({"$schema": DIALECT, **found}, indent=1, ensure_ascii=False) + "\n"
