"""Checks of options, checkpoint and GPU that several runtimes make when they load."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from engine_config import EngineConfigError

from token_engine.interface import EngineLoadError


def require(condition: bool, name: str, value: object, needed: str) -> None:
    """Raise `EngineConfigError` unless `condition`; `name` is the path within runtime_options."""
    if not condition:
        raise EngineConfigError(f"runtime_options.{name} is {value!r} and must be {needed}")


def model_directory(directory: Path, named: str) -> Path:
    """The checkpoint's (or TensorRT engine's) folder: `named`, relative to the engine's own."""
    return directory / named if named else directory


def require_one_of(allowed: Collection[str], options: object, where: str, name: str) -> None:
    """Check the field `name` of `options`, the table `where` ("": runtime_options itself)."""
    value = getattr(options, name)
    words = ", ".join(map(repr, allowed))
    require(value in allowed, _path(where, name), value, f"one of {words}")


def require_at_least(least: int, options: object, where: str, *names: str) -> None:
    """As `require_one_of`, for numbers."""
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


REBUILD = "rebuild the engine with 'make engine'"
HAS_FP4 = (10, 0)  # Blackwell

Capability = tuple[int, int]  # compute capability of a GPU, (major, minor)


def quantization_algorithm(directory: Path) -> str:
    """ "NVFP4", or another name of Model Optimizer's; "" for a checkpoint that is not quantized.

    `hf_quant_config.json` takes precedence over config.json. Raises `EngineLoadError`.
    """
    config = read_object(directory / "config.json")
    facts = config.get("quantization_config") or {}
    if (directory / "hf_quant_config.json").is_file():
        facts = read_object(directory / "hf_quant_config.json").get("quantization") or {}
    return str(facts.get("quant_algo") or facts.get("quant_method") or "")


def longest_context(directory: Path) -> int:
    """`max_position_embeddings` of the checkpoint; raises `EngineLoadError`."""
    length = read_object(directory / "config.json").get("max_position_embeddings")
    if not isinstance(length, int):
        path = directory / "config.json"
        raise EngineLoadError(f"{path} has no max_position_embeddings; {REBUILD}")
    return length


def marlin_note(gpu: str, capability: Capability) -> str:
    """A note on NVFP4 weights on this GPU; "" where its tensor cores compute in FP4."""
    if capability >= HAS_FP4:
        return ""
    return (
        f"{gpu} (sm{capability[0]}{capability[1]}) has no FP4 tensor cores: the Marlin kernel "
        "multiplies the 4-bit weights in BF16, which saves memory and speeds up decoding, "
        "but not prefill"
    )


def check_fp4(gpu: str, capability: Capability, least: Capability) -> None:
    """Raise `EngineLoadError` for a GPU below `least`; say on stderr where Marlin will be used."""
    if capability < least:
        raise EngineLoadError(
            f"{gpu} has compute capability {capability[0]}.{capability[1]} and must have "
            f"{least[0]}.{least[1]} or later for NVFP4; use the openvino runtime"
        )
    note = marlin_note(gpu, capability)
    if note:
        print(note, file=sys.stderr, flush=True)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises `EngineLoadError`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineLoadError(f"{path} does not exist; {REBUILD}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineLoadError(f"{path} cannot be read ({error}); {REBUILD}") from error
    if not isinstance(document, dict):
        raise EngineLoadError(f"{path} is not a JSON object; {REBUILD}")
    return document
