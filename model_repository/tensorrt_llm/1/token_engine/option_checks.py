"""Checks of `runtime_options`: an `EngineConfigError` names the key, its value, what is allowed."""

from __future__ import annotations

from collections.abc import Collection

from engine_config import EngineConfigError


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """`name` is the option's path within runtime_options."""
    if not condition:
        raise EngineConfigError(f"runtime_options.{name} is {value!r}, allowed is {allowed}")


def require_one_of(allowed: Collection[str], options: object, where: str, name: str) -> None:
    """The field `name` of `options`, which is the table `where` ("": runtime_options itself)."""
    value = getattr(options, name)
    words = ", ".join(map(repr, allowed))
    require(value in allowed, _path(where, name), value, f"one of {words}")


def require_at_least(least: int, options: object, where: str, *names: str) -> None:
    """The same, for numbers."""
    for name in names:
        value = getattr(options, name)
        require(value >= least, _path(where, name), value, f"at least {least}")


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
