"""Dataclasses from what a JSON file holds: every field is there, of its type, and finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Made = TypeVar("Made")


def made_from(kind: type[Made], values: Any) -> Made:
    """Return a dataclass from a mapping of JSON values; lists become tuples.

    Args:
        kind: a dataclass whose fields are str, int, float, tuples of these, dataclasses, or one of them or `None`.
        values: what was read.

    Raises:
        ValueError: no mapping, or a value that is not of its field's type, NaN or infinite; names the field.
        TypeError: fields that are missing or unknown.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{kind.__name__} is {values!r}, not an object")
    hints = get_type_hints(kind)
    return kind(
        **{name: _value(name, hints[name], value) if name in hints else value for name, value in values.items()}
    )


def _value(name: str, kind: Any, value: Any) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        (kind,) = (part for part in parts if part is not NoneType)
        return _value(name, kind, value)
    if origin is tuple:
        wanted = parts[:1] * len(value) if isinstance(value, list) and Ellipsis in parts else parts
        if not isinstance(value, list) or len(value) != len(wanted):
            raise ValueError(f"{name} is {value!r}, not a list of {'numbers' if Ellipsis in parts else len(wanted)}")
        return tuple(_value(name, part, item) for part, item in zip(wanted, value, strict=True))
    if hasattr(kind, "__dataclass_fields__"):
        return made_from(kind, value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}, not finite")
        return float(value)
    if kind in (int, str) and isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise ValueError(f"{name} is {value!r}, not of type {getattr(kind, '__name__', kind)}")
