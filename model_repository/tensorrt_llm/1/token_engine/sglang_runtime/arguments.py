"""An engine's options as SGLang's `ServerArgs`, and the checks before it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine_config import EngineConfig

from token_engine.checks import (
    REBUILD,
    check_fp4,
    longest_context,
    model_directory,
    quantization_algorithm,
    require_known_arguments,
)
from token_engine.interface import EngineLoadError
from token_engine.sglang_runtime.kv_scales import check_kv_scales
from token_engine.sglang_runtime.library import Library
from token_engine.sglang_runtime.options import CONTEXT_RESERVE, SglangOptions

LEAST_FOR_MARLIN = (8, 0)
NO_PREEMPTION = 1000  # more than the largest difference of two priorities in room 2


def check_deployment(
    directory: Path, config: EngineConfig, options: SglangOptions, library: Library
) -> None:
    """Raise `EngineLoadError` for faults that SGLang would report late, unclearly or not at all."""
    checkpoint = model_directory(directory, options.model_directory)
    algorithm = quantization_algorithm(checkpoint)
    if options.quantization == "modelopt_fp4" and algorithm != "NVFP4":
        raise EngineLoadError(
            f"runtime_options.quantization is 'modelopt_fp4' and the checkpoint's quant_algo is "
            f"{algorithm!r} and must be 'NVFP4'; {REBUILD}"
        )
    check_kv_scales(checkpoint, options.kv_cache_dtype)
    wanted = options.tp_size * options.pp_size
    if library.gpus < wanted:
        raise EngineLoadError(
            f"{library.gpus} GPUs are visible and tp_size {options.tp_size} times pp_size "
            f"{options.pp_size} needs {wanted}; run 'make doctor', and give the container its GPUs "
            "(docker run --gpus all)"
        )
    longest = longest_context(checkpoint) - CONTEXT_RESERVE
    if config.limits.max_seq_len > longest:
        raise EngineLoadError(
            f"limits.max_seq_len is {config.limits.max_seq_len} and must be at most "
            f"{longest} with SGLang, {CONTEXT_RESERVE} less than the model's "
            f"max_position_embeddings; {REBUILD}"
        )
    if algorithm == "NVFP4":
        check_fp4(library.gpu, library.capability, LEAST_FOR_MARLIN)


def server_arguments(
    directory: Path, config: EngineConfig, options: SglangOptions, library: Library
) -> dict[str, Any]:
    """Keyword arguments of `Engine`; raises `EngineLoadError` for one it does not have."""
    limits = config.limits
    arguments: dict[str, Any] = {
        "model_path": str(model_directory(directory, options.model_directory)),
        "skip_tokenizer_init": False,  # min_new_tokens needs the tokenizer, and guides do
        "context_length": limits.max_seq_len + CONTEXT_RESERVE,
        "max_running_requests": limits.max_batch_size,
        "chunked_prefill_size": limits.max_num_tokens,
        "tp_size": options.tp_size,
        "pp_size": options.pp_size,
        "dtype": options.dtype,
        "kv_cache_dtype": options.kv_cache_dtype,
        "disable_radix_cache": options.disable_radix_cache,
        "fp4_gemm_runner_backend": options.fp4_gemm_runner_backend,
        "grammar_backend": options.grammar_backend,
        "stream_interval": options.stream_interval,
        "disable_cuda_graph": options.disable_cuda_graph,
        "enable_deterministic_inference": options.enable_deterministic_inference,
        "incremental_streaming_output": True,  # else each output holds everything so far
        "sampling_defaults": "openai",  # the checkpoint's would override what requests say
        "enable_priority_scheduling": True,
        "schedule_low_priority_values_first": True,
        "priority_scheduling_preemption_threshold": NO_PREEMPTION,
    }
    given = {
        "quantization": options.quantization,
        "mem_fraction_static": options.mem_fraction_static,
        "max_total_tokens": options.max_total_tokens,
        "page_size": options.page_size,
        "attention_backend": options.attention_backend,
    }
    arguments |= {name: value for name, value in given.items() if value}
    arguments |= options.more_server_args
    name = f"SGLang {library.version}"
    require_known_arguments(arguments, library.argument_names, name, directory)
    return arguments
