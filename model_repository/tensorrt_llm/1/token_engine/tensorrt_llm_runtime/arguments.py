"""An engine's options as arguments of TensorRT-LLM's `LLM`, and the checks before it loads.

Tables go to the library as they are. It makes its configuration objects of them, whose names change
more often than their fields.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from engine_config import EngineConfig

from token_engine.checks import model_directory, require_known_arguments
from token_engine.interface import EngineLoadError
from token_engine.library_results import one_line
from token_engine.tensorrt_llm_runtime.options import (
    CudaGraphOptions,
    KvCacheOptions,
    SchedulerOptions,
    TensorRtLlmOptions,
)
from token_engine.tensorrt_llm_runtime.versions import Library, speculative_config

REBUILD = "rebuild the engine with 'make engine'"


def check_deployment(
    directory: Path, config: EngineConfig, options: TensorRtLlmOptions, library: Library
) -> None:
    """Raise `EngineLoadError` for faults that it would report late, unclearly or not at all."""
    path = model_directory(directory, options.model_directory) / "config.json"
    if not path.is_file():
        raise EngineLoadError(f"{path} does not exist; {REBUILD}")
    wanted = options.tensor_parallel_size * options.pipeline_parallel_size
    present = library.torch.cuda.device_count()
    if present < wanted:
        seen = f"{present} are" if present else "no NVIDIA GPU is"
        raise EngineLoadError(
            f"{seen} visible and tensor_parallel_size {options.tensor_parallel_size} times "
            f"pipeline_parallel_size {options.pipeline_parallel_size} needs {wanted}; "
            "run 'make doctor', and give the container its GPUs (docker run --gpus all)"
        )
    # Without the package the library silently runs TRTLLM's kernels instead.
    if options.attn_backend == "FLASHINFER" and importlib.util.find_spec("flashinfer") is None:
        raise EngineLoadError(
            "attn_backend is 'FLASHINFER' and the package flashinfer is not installed; "
            "set runtime_options.attn_backend to 'TRTLLM'"
        )
    if options.backend == "tensorrt":
        _check_tensorrt_engine(config.built_with, library)


def _check_tensorrt_engine(built_with: dict[str, str], library: Library) -> None:
    """It runs only with the version and on the kind of GPU that it was built for."""
    built = built_with.get("tensorrt_llm", library.version)
    if built != library.version:
        raise EngineLoadError(
            f"the engine was built with TensorRT-LLM {built}, installed is {library.version}; "
            f"{REBUILD}"
        )
    present = ".".join(map(str, library.torch.cuda.get_device_capability(0)))
    built = built_with.get("compute_capability", present)
    if built != present:
        raise EngineLoadError(
            f"the engine was built for compute capability {built}, this GPU has {present}; "
            f"{REBUILD}"
        )


def llm_arguments(
    directory: Path, config: EngineConfig, options: TensorRtLlmOptions, library: Library
) -> dict[str, Any]:
    """Keyword arguments of `LLM`."""
    limits = config.limits
    arguments: dict[str, Any] = {
        "model": str(model_directory(directory, options.model_directory)),
        # Only guided decoding needs the tokenizer, to know what text a token is.
        "skip_tokenizer_init": not options.guided_decoding_backend,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "max_seq_len": limits.max_seq_len,
        "max_batch_size": limits.max_batch_size,
        "max_num_tokens": limits.max_num_tokens,
        "max_beam_width": 1,
        "kv_cache_config": _kv_cache(options.kv_cache_config),
        "scheduler_config": _scheduler(options.scheduler_config),
        "enable_chunked_prefill": options.enable_chunked_prefill,
    }
    if options.guided_decoding_backend:
        arguments["guided_decoding_backend"] = options.guided_decoding_backend
    if options.speculative_config:
        arguments["speculative_config"] = _drafts(options.speculative_config, directory, library)
    if options.backend == "tensorrt" and options.guided_decoding_backend:
        arguments["tokenizer"] = str(directory)  # the engine's own folder need not have one
    if options.backend == "pytorch":
        arguments |= _pytorch_arguments(config, options, library) | library.sampler_arguments
    arguments |= options.more_llm_arguments
    name = f"TensorRT-LLM {library.version}"
    require_known_arguments(arguments, library.argument_names, name, directory)
    return arguments


def _drafts(config: dict[str, Any], directory: Path, library: Library) -> Any:
    try:
        return speculative_config(config)
    except Exception as error:  # of pydantic and the library itself
        raise EngineLoadError(
            f"TensorRT-LLM {library.version} refuses speculative_config ({one_line(error)}); "
            f"correct runtime_options in {directory / 'engine.json'}"
        ) from error


def _pytorch_arguments(
    config: EngineConfig, options: TensorRtLlmOptions, library: Library
) -> dict[str, Any]:
    early: dict[str, Any] = {}
    if options.enable_early_first_token_response:
        early["enable_early_first_token_response"] = True
    return {
        **early,
        "max_input_len": config.limits.max_seq_len,  # else 1024 in 1.0
        "cuda_graph_config": _cuda_graphs(options.cuda_graph_config, library),
        "attn_backend": options.attn_backend,
        "stream_interval": options.stream_interval,
        "disable_overlap_scheduler": options.disable_overlap_scheduler,
        "enable_autotuner": options.enable_autotuner,
        "enable_iter_perf_stats": True,
    }


def _kv_cache(options: KvCacheOptions) -> dict[str, Any]:
    return {
        "free_gpu_memory_fraction": options.free_gpu_memory_fraction,
        "max_tokens": options.max_tokens or None,
        "dtype": options.dtype,
        "enable_block_reuse": options.enable_block_reuse,
        "enable_partial_reuse": options.enable_partial_reuse,
        "host_cache_size": options.host_cache_size or None,
    }


def _cuda_graphs(options: CudaGraphOptions, library: Library) -> dict[str, Any] | None:
    if not options.enabled:
        return None
    sizes: dict[str, Any] = {}
    if options.batch_sizes:
        sizes["batch_sizes"] = sorted(options.batch_sizes)  # 1.0 refuses both
    elif options.max_batch_size:
        sizes["max_batch_size"] = options.max_batch_size
    # Where the library distinguishes graphs of decoders and encoders, only this word does it.
    mode = {"mode": "decode"} if library.graphs_have_modes else {}
    return {**mode, "enable_padding": options.enable_padding, **sizes}


def _scheduler(options: SchedulerOptions) -> dict[str, Any]:
    waiting = options.waiting_queue_policy
    return {
        "capacity_scheduler_policy": options.capacity_scheduler_policy,
        "context_chunking_policy": options.context_chunking_policy or None,
        **({"waiting_queue_policy": waiting} if waiting else {}),
    }
