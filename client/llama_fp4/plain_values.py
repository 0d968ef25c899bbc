"""Values of other libraries as Python's own: NumPy's scalars above all, without importing NumPy."""

from __future__ import annotations

import json
import numbers
from typing import Any

OWN = (bool, int, float, str, type(None))


def plain(value: Any) -> Any:
    """The bool, int, float or str that `value` holds; what holds none of them as it is.

    A scalar of NumPy, and an array or tensor without dimensions (torch, JAX), has `item()`.
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
    """A list, tuple or array of one dimension as a tuple of such values; anything else as it is."""
    if getattr(values, "ndim", None) == 1 and callable(getattr(values, "tolist", None)):
        values = values.tolist()
    return tuple(map(plain, values)) if isinstance(values, (list, tuple)) else values


def as_json(value: Any) -> str:
    """JSON. Raises TypeError, ValueError or RecursionError for what it cannot hold, as NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_for_json)


def _for_json(value: Any) -> Any:
    found = plain(value)
    if type(found) not in OWN:
        raise TypeError(f"{type(value).__name__} has no place in JSON")
    return found
