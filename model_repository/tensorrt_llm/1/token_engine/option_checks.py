"""Checks of `runtime_options`: an `EngineConfigError` names the key, its value, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path

from engine_config import EngineConfigError

from token_engine.interface import EngineLoadError


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


def require_known_arguments(
    given: Iterable[str], known: Collection[str], library: str, directory: Path
) -> None:
    """Raise `EngineLoadError` for an argument that the library, a name and a version, lacks."""
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {nearest[0]!r}? " if nearest else ""
            raise EngineLoadError(
                f"{library} has no argument {name!r}; {meant}"
                f"correct runtime_options in {directory / 'engine.json'}"
            )


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
