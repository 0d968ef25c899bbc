"""Writes `engine.json`, through the very dataclasses with which the server reads it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

_ROOM_2 = Path(__file__).resolve().parents[1] / "model_repository" / "tensorrt_llm" / "1"
if str(_ROOM_2) not in sys.path:
    sys.path.append(str(_ROOM_2))

from engine_config import (  # noqa: E402
    FORMAT_VERSION,
    EngineConfig,
    EngineConfigError,
    Limits,
    ModelFacts,
    load_engine_config,
    parse_section,
)
from token_engine.cgroup_memory import CGROUPS, OWN_GROUPS, memory_limits  # noqa: E402
from token_engine.checkpoint_kv_scales import check_kv_scales  # noqa: E402
from token_engine.checkpoint_quantization import marlin_note  # noqa: E402
from token_engine.cpu_isa import find_cpu_isa  # noqa: E402
from token_engine.interface import EngineLoadError  # noqa: E402
from token_engine.openvino_import import import_openvino  # noqa: E402
from token_engine.openvino_memory import ModelShape  # noqa: E402
from token_engine.openvino_options import (  # noqa: E402
    AUTO,
    KV_BLOCK_TOKENS,
    KV_CACHE_PRECISIONS,
    PRECISIONS,
    OpenVinoOptions,
)
from token_engine.openvino_precision import Settled, settle  # noqa: E402
from token_engine.openvino_requirements import available_bytes  # noqa: E402
from token_engine.registry import RUNTIMES  # noqa: E402
from token_engine.sglang_options import CONTEXT_RESERVE, SglangOptions  # noqa: E402
from token_engine.tensorrt_llm_options import TensorRtLlmOptions  # noqa: E402
from token_engine.vllm_options import VllmOptions  # noqa: E402

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
    """The description of an engine built earlier, or None where there is none that can be read."""
    try:
        return load_engine_config(folder)
    except EngineConfigError:
        return None
