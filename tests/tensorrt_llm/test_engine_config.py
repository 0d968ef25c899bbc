"""A faulty `engine.json` is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_config import EngineConfigError, load_engine_config, parse_section
from token_engine.sglang_runtime.options import SglangOptions
from token_engine.tensorrt_llm_runtime.options import TensorRtLlmOptions
from token_engine.vllm_runtime.options import VllmOptions

GOOD: dict[str, Any] = {
    "format_version": 1,
    "runtime": "vllm",
    "model": {
        "name": "m",
        "vocab_size": 300,
        "bos_token_id": 1,
        "eos_token_ids": [2],
        "checkpoint_sha256": "0",
    },
    "limits": {"max_seq_len": 9, "max_batch_size": 4, "max_num_tokens": 6, "max_queue_size": 8},
}
HUGE = 10**400
DEEP: Any = {}
for _ in range(200):
    DEEP = {"a": DEEP}


def load(folder: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "engine.json").write_bytes(data)
    load_engine_config(folder)


def test_the_whole_file(tmp_path: Path) -> None:
    load(tmp_path, json.dumps(GOOD))


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        ("format_version", 2, "format_version 2 and must be 1; rebuild the engine"),
        ("speed", 2, "unknown key 'speed'; known are format_version"),
        ("model", [], r"model is \[\] and must be an object"),
        ("model.vocab_size", 300.0, "vocab_size is 300.0 and must be a JSON int"),
        ("model.vocab_size", True, "vocab_size is True and must be a JSON int"),
        ("model.eos_token_ids", [300], "model token id is 300 and must be below vocab_size"),
        ("model.eos_token_ids", [True], "must be a list of int"),
        ("model.name", "\ud800", r"has '.ud800' and must be text without NUL and lone surr"),
        (
            "limits.max_seq_len",
            HUGE,
            "has a number of 1329 bits and must have at most 64",
        ),
        ("limits.max_seq_len", 2**31, "limits.max_seq_len is 2147483648 and must be at most 2147"),
        ("limits.max_queue_size", 2**63, "limits.max_queue_size is .* and must be at most 2147"),
        (
            "limits.hang_timeout_s",
            1e300,
            r"hang_timeout_s is 1e\+300 and must be at most 1000",
        ),
        ("model.vocab_size", 10**18, "model.vocab_size is 10* and must be at most 2147483647"),
        ("limits.max_seq_len", 1, "limits.max_seq_len is 1 and must be at least 2"),
        ("limits.hang_timeout_s", HUGE, "hang_timeout_s has a number of 1329 bits and must"),
        ("limits.hang_timeout_s", float("inf"), "hang_timeout_s has inf and must be a finite"),
        ("limits.hang_timeout_s", float("nan"), "hang_timeout_s has nan and must be a finite"),
        ("limits.hang_timeout_s", 0, "limits.hang_timeout_s is 0.0 and must be above 0"),
        ("engine_python", "/bin/\0", r"engine_python has '/bin/.x00' and must be text without"),
        ("built_with", {"a": float("nan")}, "built_with has nan and must be a finite number"),
        ("runtime_options", {"a": {"b": [HUGE]}}, "runtime_options has a number of 1329 bits"),
        ("runtime_options", DEEP, "runtime_options is nested and must have at most 50 levels"),
    ],
    ids=lambda value: str(value)[:20].encode("ascii", "replace").decode(),
)
def test_what_is_wrong_is_named(tmp_path: Path, where: str, value: object, expected: str) -> None:
    document = json.loads(json.dumps(GOOD))
    *tables, last = where.split(".")
    table = document
    for name in tables:
        table = table[name]
    table[last] = value
    with pytest.raises(EngineConfigError, match=expected) as error:
        load(tmp_path, json.dumps(document))
    assert "\n" not in str(error.value)
    assert str(tmp_path / "engine.json") in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "nul", b"\xff", "[" * 100_000, '{"a":' * 100_000, "9" * 5000],
    ids=lambda text: str(text)[:6],
)
def test_invalid_json_is_named(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(EngineConfigError, match=r"engine\.json cannot be read \(.*make engine"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("options", "document", "name"),
    [
        (TensorRtLlmOptions, {"kv_cache_config": {"free_gpu_memory_fraction": HUGE}}, "fraction"),
        (TensorRtLlmOptions, {"more_llm_arguments": {"a": HUGE}}, "more_llm_arguments"),
        (VllmOptions, {"gpu_memory_utilization": -HUGE}, "gpu_memory_utilization"),
        (SglangOptions, {"mem_fraction_static": HUGE}, "mem_fraction_static"),
    ],
)
def test_boundless_numbers_of_a_runtime(options: type, document: dict[str, Any], name: str) -> None:
    with pytest.raises(EngineConfigError, match=f"runtime_options.*{name} has a number of 1329"):
        parse_section(options, document, "runtime_options")
