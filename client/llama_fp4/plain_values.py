"""Converts other libraries' values to Python's own, above all NumPy's, without importing it."""

from __future__ import annotations

import json
import numbers
from typing import Any

OWN = (bool, int, float, str, type(None))


def plain(value: Any) -> Any:
    """The bool, int, float or str that `value` holds; any other value as it is.

    NumPy's scalars, and arrays or tensors without dimensions (torch, JAX), have `item()`.
    """
    if type(value) in OWN:
        return value
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return value


def plain_list(values: Any) -> Any:
    """A list, tuple or array of one dimension as a tuple of `plain` values; any other as it is."""
    if getattr(values, "ndim", None) == 1 and callable(getattr(values, "tolist", None)):
        values = values.tolist()
    return tuple(map(plain, values)) if isinstance(values, (list, tuple)) else values


def as_json(value: Any) -> str:
    """JSON. Raises TypeError, ValueError or RecursionError for what it cannot hold, such as NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_for_json)


def _for_json(value: Any) -> Any:
    found = plain(value)
    if type(found) not in OWN:
        raise TypeError(f"JSON cannot hold a {type(value).__name__}")
    return found
