"""`runtime_options` of a TensorRT-LLM engine: what it may say, and the refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from engine_config import EngineConfigError, parse_section
from token_engine.tensorrt_llm_runtime.options import (
    RESERVED_ARGUMENTS,
    KvCacheOptions,
    TensorRtLlmOptions,
)


def parsed(**document: Any) -> TensorRtLlmOptions:
    return parse_section(TensorRtLlmOptions, document, "runtime_options")


def test_default_options_are_valid() -> None:
    options = parsed()
    assert options == TensorRtLlmOptions()
    assert parsed(**dataclasses.asdict(options)) == options


def test_chunks_of_one_size() -> None:
    forced = parsed(scheduler_config={"context_chunking_policy": "FORCE_CHUNK"})
    assert forced.scheduler_config.context_chunking_policy == "FORCE_CHUNK"


def test_the_card_recipe() -> None:
    """NVIDIA's own settings for this checkpoint (dgx-spark-playbooks, nvidia/trt-llm)."""
    options = parsed(
        kv_cache_config={"dtype": "auto", "free_gpu_memory_fraction": 0.9},
        cuda_graph_config={"enable_padding": True},
        disable_overlap_scheduler=True,
    )
    assert options.kv_cache_config == KvCacheOptions()
    assert options.disable_overlap_scheduler


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"backend": "trt"}, "backend is 'trt' and must be one of 'pytorch', 'tensorrt'"),
        # The library would run TRTLLM's kernels and say nothing.
        (
            {"attn_backend": "flashinfer"},
            "attn_backend is 'flashinfer' and must be one of 'TRTLLM'",
        ),
        ({"attn_backend": "FlashInfer"}, "attn_backend is 'FlashInfer'"),
        ({"guided_decoding_backend": "outlines"}, "guided_decoding_backend is 'outlines'"),
        ({"sampler_type": "torch"}, "sampler_type is 'torch' and must be one of 'auto', 'Torch"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0 and must be at least 1"),
        ({"pipeline_parallel_size": -1}, "pipeline_parallel_size is -1 and must be at least 1"),
        ({"stream_interval": 0}, "stream_interval is 0 and must be at least 1"),
        ({"tensor_parallel_size": 2.0}, "tensor_parallel_size is 2.0 and must be a JSON int"),
        ({"kv_cache_config": {"dtype": "int8"}}, "kv_cache_config.dtype is 'int8' and must be one"),
        ({"kv_cache_config": {"max_tokens": -1}}, "kv_cache_config.max_tokens is -1"),
        (
            {"kv_cache_config": {"free_gpu_memory_fraction": 0}},
            r"kv_cache_config.free_gpu_memory_fraction is 0.0 and must be above 0 and up to 1",
        ),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 1.1}}, "fraction is 1.1"),
        ({"kv_cache_config": {"host_cache_size": -1}}, "kv_cache_config.host_cache_size is -1"),
        ({"cuda_graph_config": {"batch_sizes": [1, 0]}}, r"batch_sizes is \[1, 0\]"),
        ({"cuda_graph_config": {"batch_sizes": [1, 2.5]}}, "a list of int"),
        (
            {"cuda_graph_config": {"batch_sizes": [1, 8], "max_batch_size": 16}},
            "cuda_graph_config.max_batch_size is 16 and must be 0, or the largest of batch_sizes",
        ),
        (
            {"scheduler_config": {"capacity_scheduler_policy": "max_utilization"}},
            "scheduler_config.capacity_scheduler_policy is 'max_utilization'",
        ),
        ({"scheduler_config": {"context_chunking_policy": "ALL"}}, "context_chunking_policy is"),
        ({"scheduler_config": {"waiting_queue_policy": "sjf"}}, "waiting_queue_policy is 'sjf'"),
        ({"speculative_config": {"max_draft_len": 4}}, "must be a table with a decoding_type"),
        ({"speculative_config": "NGram"}, "speculative_config is 'NGram' and must be a JSON dict"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, Any], expected: str) -> None:
    with pytest.raises(EngineConfigError, match=f"runtime_options.*{expected}"):
        parsed(**document)


@pytest.mark.parametrize(
    ("document", "meant"),
    [
        ({"tensor_parallel": 2}, "tensor_parallel_size"),
        ({"attention_backend": "TRTLLM"}, "attn_backend"),
        ({"chunked_prefill": True}, "enable_chunked_prefill"),
        ({"kv_cache_config": {"free_gpu_mem_fraction": 0.5}}, "free_gpu_memory_fraction"),
        ({"cuda_graph_config": {"padding": True}}, "enable_padding"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_one(document: dict[str, Any], meant: str) -> None:
    with pytest.raises(EngineConfigError, match=f"unknown key .*did you mean '{meant}'"):
        parsed(**document)


def test_an_unknown_key_like_no_other_lists_all_keys() -> None:
    with pytest.raises(EngineConfigError, match="unknown key 'xyzzy'; known are backend, model"):
        parsed(xyzzy=1)


@pytest.mark.parametrize("name", [*RESERVED_ARGUMENTS, "kv_cache_config", "backend"])
def test_more_arguments_set_nothing_that_is_set_elsewhere(name: str) -> None:
    with pytest.raises(EngineConfigError, match=f"more_llm_arguments is .*no {name}: "):
        parsed(more_llm_arguments={name: 1})


@pytest.mark.parametrize(
    "document",
    [
        {"attn_backend": "FLASHINFER"},
        {"sampler_type": "TorchSampler"},
        {"cuda_graph_config": {"enabled": False}},
        {"disable_overlap_scheduler": True},
        {"enable_autotuner": False},
        {"enable_early_first_token_response": True},
        {"kv_cache_config": {"dtype": "fp8"}},
    ],
    ids=lambda document: next(iter(document)),
)
def test_a_tensorrt_engine_refuses_what_only_pytorch_has(document: dict[str, Any]) -> None:
    parsed(**document)
    assert parsed(backend="tensorrt").backend == "tensorrt"
    with pytest.raises(EngineConfigError, match="with backend 'tensorrt'"):
        parsed(backend="tensorrt", **document)
