"""vLLM itself on a BF16 copy of the demo checkpoint, as both parts of these tests need it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from dense_checkpoint import write_dense_checkpoint
from engine_config import load_engine_config
from engines.engine_json import write_description

from tests.support.deployments import compile_engine
from tests.support.paths import DEMO_CHECKPOINT

# The KV cache of a machine that others share, and nothing compiled: the tests are about tokens.
OPTIONS: dict[str, Any] = {
    "model_directory": "dense",
    "kv_cache_memory_bytes": 64 * 2**20,
    "enforce_eager": True,
}
LIMITS = ("--max-seq-len", "2048", "--max-batch-size", "4", "--max-num-tokens", "64")


@pytest.fixture(scope="session")
def vllm_engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine's folder of the demo checkpoint for vLLM, which has no NVFP4 kernel on a CPU."""
    folder = tmp_path_factory.mktemp("vllm") / "engine"
    compile_engine(folder, "--runtime", "replay", *LIMITS)
    write_dense_checkpoint(DEMO_CHECKPOINT, folder / "dense")
    config = load_engine_config(folder)
    changed = dataclasses.replace(config, runtime="vllm", runtime_options=OPTIONS)
    write_description(folder, changed)
    return folder
