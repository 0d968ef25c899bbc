"""Writes `engine.json`. Through this module the build uses room 2's modules."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import host.room_paths  # noqa: F401
from engine_config import (
    FORMAT_VERSION,
    EngineConfig,
    EngineConfigError,
    Limits,
    ModelFacts,
    load_engine_config,
    parse_section,
)
from token_engine.checks import marlin_note
from token_engine.interface import EngineLoadError
from token_engine.openvino_runtime.cpu_isa import find_cpu_isa
from token_engine.openvino_runtime.library import import_openvino
from token_engine.openvino_runtime.memory import (
    CGROUPS,
    OWN_GROUPS,
    ModelShape,
    available_bytes,
    memory_limits,
)
from token_engine.openvino_runtime.options import (
    AUTO,
    KV_BLOCK_TOKENS,
    KV_CACHE_PRECISIONS,
    PRECISIONS,
    OpenVinoOptions,
)
from token_engine.openvino_runtime.precision import Settled, settle
from token_engine.registry import RUNTIMES
from token_engine.replay import ReplayOptions
from token_engine.sglang_runtime.kv_scales import check_kv_scales
from token_engine.sglang_runtime.options import CONTEXT_RESERVE, SglangOptions
from token_engine.tensorrt_llm_runtime.options import TensorRtLlmOptions
from token_engine.vllm_runtime.options import VllmOptions

__all__ = [
    "AUTO",
    "CGROUPS",
    "CONTEXT_RESERVE",
    "FORMAT_VERSION",
    "KV_BLOCK_TOKENS",
    "KV_CACHE_PRECISIONS",
    "OWN_GROUPS",
    "PRECISIONS",
    "RUNTIMES",
    "EngineConfig",
    "EngineConfigError",
    "EngineLoadError",
    "Limits",
    "ModelFacts",
    "ModelShape",
    "OpenVinoOptions",
    "ReplayOptions",
    "Settled",
    "SglangOptions",
    "TensorRtLlmOptions",
    "VllmOptions",
    "available_bytes",
    "check_kv_scales",
    "find_cpu_isa",
    "import_openvino",
    "load_engine_config",
    "marlin_note",
    "memory_limits",
    "parse_section",
    "read_description",
    "settle",
    "write_description",
]


def write_description(folder: Path, config: EngineConfig) -> None:
    """Write `folder/engine.json` and read it back."""
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    (folder / "engine.json").write_text(text, encoding="utf-8")
    if load_engine_config(folder) != config:
        raise AssertionError(f"engine.json does not read back as written: {text}")


def read_description(folder: Path) -> EngineConfig | None:
    """The description of an engine built earlier; None if it cannot be read."""
    try:
        return load_engine_config(folder)
    except EngineConfigError:
        return None
