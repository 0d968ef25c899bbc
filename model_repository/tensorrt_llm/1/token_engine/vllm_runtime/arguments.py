"""An engine's options as vLLM's `EngineArgs`, and the checks before it loads."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from engine_config import EngineConfig

from token_engine.checks import (
    REBUILD,
    check_fp4,
    model_directory,
    quantization_algorithm,
    require_known_arguments,
)
from token_engine.interface import EngineLoadError
from token_engine.vllm_runtime.library import Library
from token_engine.vllm_runtime.options import VllmOptions

LEAST_FOR_MARLIN = (7, 5)
MOST_LOGPROBS = 20  # as room 2 admits


def check_deployment(directory: Path, options: VllmOptions, library: Library) -> None:
    """Raise `EngineLoadError` for faults that vLLM would report late, unclearly or not at all."""
    algorithm = quantization_algorithm(model_directory(directory, options.model_directory))
    if options.quantization == "modelopt_fp4" and algorithm != "NVFP4":
        raise EngineLoadError(
            f"runtime_options.quantization is 'modelopt_fp4' and the checkpoint's quant_algo is "
            f"{algorithm!r} and must be 'NVFP4'; {REBUILD}"
        )
    if not library.cuda:
        if algorithm == "NVFP4":
            raise EngineLoadError(
                f"vLLM {library.version} finds no NVIDIA GPU and has no NVFP4 kernel for a CPU; "
                "use the openvino runtime there, or write a BF16 copy of the checkpoint with "
                "build/dense_checkpoint.py"
            )
        return
    wanted = options.tensor_parallel_size * options.pipeline_parallel_size
    if library.gpus < wanted:
        raise EngineLoadError(
            f"{library.gpus} GPUs are visible and tensor_parallel_size "
            f"{options.tensor_parallel_size} times pipeline_parallel_size "
            f"{options.pipeline_parallel_size} needs {wanted}; run 'make doctor', and give the "
            "container its GPUs (docker run --gpus all)"
        )
    if algorithm == "NVFP4":
        check_fp4(library.gpu, library.capability, LEAST_FOR_MARLIN)


def engine_arguments(
    directory: Path, config: EngineConfig, options: VllmOptions, library: Library
) -> dict[str, Any]:
    """Keyword arguments of `AsyncEngineArgs`; raises `EngineLoadError` for one it does not have."""
    limits = config.limits
    arguments: dict[str, Any] = {
        "model": str(model_directory(directory, options.model_directory)),
        # Only guided decoding needs the tokenizer, to know what text a token is.
        "skip_tokenizer_init": not options.structured_outputs_backend,
        "max_model_len": limits.max_seq_len,
        "max_num_seqs": limits.max_batch_size,
        "max_num_batched_tokens": limits.max_num_tokens,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "dtype": options.dtype,
        "kv_cache_dtype": options.kv_cache_dtype,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "enable_prefix_caching": options.enable_prefix_caching,
        "enforce_eager": options.enforce_eager,
        "stream_interval": options.stream_interval,
        "generation_config": "vllm",  # the checkpoint's would override what requests say
        "scheduling_policy": "priority",
        "logprobs_mode": "raw_logprobs",
        "max_logprobs": MOST_LOGPROBS,
        "disable_log_stats": True,  # of its own: the runtime's is given to AsyncLLM
        "seed": secrets.randbits(31),  # of requests without one; else every engine draws alike
    }
    if not library.cuda:
        # A prompt computed in several steps, of a request with a seed, ends vLLM's worker on a CPU
        # ("CPU Generator does not use offset", gpu_model_runner.py of 0.32). Prompts stay whole.
        whole = max(limits.max_num_tokens, limits.max_seq_len)
        arguments |= {"enable_chunked_prefill": False, "max_num_batched_tokens": whole}
    arguments |= _where_given(options) | options.more_engine_args
    name = f"vLLM {library.version}"
    require_known_arguments(arguments, library.argument_names, name, directory)
    return arguments


def _where_given(options: VllmOptions) -> dict[str, Any]:
    """Options whose default leaves the choice to the library."""
    given: dict[str, Any] = {
        "quantization": options.quantization,
        "kv_cache_memory_bytes": options.kv_cache_memory_bytes,
        "num_gpu_blocks_override": options.num_gpu_blocks_override,
        "block_size": options.block_size,
        "cudagraph_capture_sizes": options.cudagraph_capture_sizes,
        "attention_backend": options.attention_backend,
        "linear_backend": "" if options.linear_backend == "auto" else options.linear_backend,
        "speculative_config": options.speculative_config,
        "compilation_config": options.compilation_config,
    }
    if options.structured_outputs_backend:
        given["structured_outputs_config"] = {"backend": options.structured_outputs_backend}
    return {name: value for name, value in given.items() if value}
