"""Classes and calls made from recorded signatures: what the real ones lack fails here too."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).parent / "signatures"
REQUIRED = "<required>"
Recorded = list[list[Any]]


def load_signatures(name: str) -> dict[str, Any]:
    """`name` is a library and its version, as in "vllm_0_32"."""
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return document


def signature(parameters: Recorded) -> inspect.Signature:
    """A function's signature."""
    kinds = {
        "position": inspect.Parameter.POSITIONAL_OR_KEYWORD,
        "keyword": inspect.Parameter.KEYWORD_ONLY,
    }
    return inspect.Signature(
        [
            inspect.Parameter(name, kinds[kind], default=_default(value))
            for name, value, kind in parameters
        ]
    )


def bound(parameters: Recorded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name, with the defaults; raises TypeError as the real call would."""
    call = signature(parameters).bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments


def record_class(name: str, parameters: Recorded, **namespace: Any) -> Any:
    """A dataclass with these fields; those without a default come first, as they must."""
    ordered = sorted(parameters, key=lambda one: one[1] != REQUIRED)
    specs: list[Any] = [
        (field, Any)
        if value == REQUIRED
        else (field, Any, dataclasses.field(default_factory=functools.partial(copy.copy, value)))
        for field, value, _ in ordered
    ]
    return dataclasses.make_dataclass(name, specs, namespace=namespace)


def _default(value: Any) -> Any:
    return inspect.Parameter.empty if value == REQUIRED else value


def module(name: str, **values: Any) -> ModuleType:
    """A module with these values."""
    made = ModuleType(name)
    made.__dict__.update(values)
    return made


def install(modules: dict[str, ModuleType]) -> None:
    """Put the modules where `import` finds them, in this process."""
    for package in {name.partition(".")[0] for name in modules}:
        remove(package)
    sys.modules.update(modules)


def remove(*packages: str) -> None:
    """Remove all modules of these packages."""
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
