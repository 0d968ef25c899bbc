"""What the checkpoint in an engine's folder says of itself, and what a GPU makes of NVFP4."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from token_engine.interface import EngineLoadError

REBUILD = "rebuild the engine with 'make engine'"
HAS_FP4 = (10, 0)  # Blackwell

Capability = tuple[int, int]  # compute capability of a GPU, (major, minor)


def quantization_algorithm(directory: Path) -> str:
    """ "NVFP4", or another name of Model Optimizer's; "" for a checkpoint that is not quantized.

    `hf_quant_config.json` goes before config.json. Raises `EngineLoadError`.
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
    """What is to be said of NVFP4 weights on this GPU; "" where its tensor cores compute in FP4."""
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
            f"{gpu} has compute capability {capability[0]}.{capability[1]}, allowed for NVFP4 is "
            f"{least[0]}.{least[1]} or later; use the openvino runtime"
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
        raise EngineLoadError(f"{path} is no JSON object; {REBUILD}")
    return document
