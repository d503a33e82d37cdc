"""Typed settings that are data: checked when made, read from and written as YAML and JSON.

What every model here shares: no field can be changed afterwards, none is unknown, and what does not fit is a
``ValueError`` of one line that names the field, what was given and what is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

# Pydantic's words for a bound that is not kept, in ours.
BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


class Settings(BaseModel):
    """The base of every task and configuration. Raises ``ValueError`` of one line for what does not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    if not TYPE_CHECKING:  # type checkers are to see the fields

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise ValueError(one_line(error)) from None

    def but(self, **changes: Any) -> Self:
        """The same settings with some fields changed, checked again."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def plain(self) -> dict[str, Any]:
        """Plain data, as in YAML and JSON."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Every field with its value. Read back by :meth:`from_yaml`."""
        import yaml

        return yaml.safe_dump(self.plain(), sort_keys=False, allow_unicode=True, width=100)

    @classmethod
    def from_yaml(cls, path: Path | str) -> Self:
        """From a YAML or JSON file. ``ValueError`` naming the file for what cannot be read or does not fit."""
        data = read_yaml(Path(path))
        try:
            return cls(**data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file. ``ValueError`` naming the file where there is none."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise ValueError(f"{path} must hold names and values, got {type(data).__name__}")
    return data


def one_line(error: ValidationError) -> str:
    """What does not fit, field by field: its name, what is needed, what was given."""
    return "; ".join(_said(each) for each in error.errors())


def _said(error: Any) -> str:
    kind, name, given = error["type"], ".".join(map(str, error["loc"])), error.get("input")
    if kind == "value_error":
        words = str(error["ctx"]["error"])
        return words if not name or words.startswith(name.split(".")[-1]) else f"{name}: {words}"
    if kind == "extra_forbidden":
        return f"{name} is no field that is known here, got {given!r}"
    if kind == "missing":
        return f"{name} must be given"
    if kind in BOUNDS:
        words, bound = BOUNDS[kind]
        return f"{name} must be {words} {error['ctx'][bound]:g}, got {given!r}"
    if kind == "literal_error":
        return f"{name} must be one of {error['ctx']['expected']}, got {given!r}"
    message = error["msg"].removeprefix("Input should be ")
    return f"{name} must be {message}, got {given!r}"
