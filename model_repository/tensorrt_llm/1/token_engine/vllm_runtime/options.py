"""`runtime_options` of a vLLM engine. Imports no vLLM: the build reads it too.

Names are those of vLLM's `EngineArgs`, so that its documentation applies. Arguments that are not
listed keep the library's default, as do the values 0, "", [] and {}.
`limits` of engine.json go to `max_model_len`, `max_num_seqs` and `max_num_batched_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from token_engine.checks import require, require_at_least, require_one_of

DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS = ("", "modelopt_fp4")
KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "nvfp4")
STRUCTURED_OUTPUTS_BACKENDS = ("", "auto", "xgrammar", "guidance", "outlines")
# Arguments that the runtime sets itself: from `limits`, or because room 2 depends on the value.
RESERVED_ARGUMENTS = (
    "model",
    "tokenizer",
    "skip_tokenizer_init",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "structured_outputs_config",
    "scheduling_policy",
    "generation_config",
    "override_generation_config",
    "logprobs_mode",
    "max_logprobs",
    "disable_log_stats",
    "enable_log_requests",
)


@dataclass(frozen=True)
class VllmOptions:
    """What `engine.json` may say to this runtime."""

    model_directory: str = ""  # relative to the engine's, or absolute; "": the engine's own
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    dtype: str = "auto"  # of what is not quantized; "auto": the checkpoint's
    quantization: str = ""  # "": what the checkpoint says; "modelopt_fp4" insists on it
    kv_cache_dtype: str = "auto"  # "auto": what the checkpoint was calibrated for
    gpu_memory_utilization: float = 0.9  # of the GPU's memory, for weights, KV cache and all else
    kv_cache_memory_bytes: int = 0  # of the KV cache; with it the share above is not used
    num_gpu_blocks_override: int = 0  # of the KV cache
    block_size: int = 0  # tokens of a KV block
    enable_prefix_caching: bool = True  # prompts that begin alike share their KV blocks
    enforce_eager: bool = False  # true: nothing is compiled, no CUDA graphs; loads faster
    cudagraph_capture_sizes: list[int] = field(default_factory=list)
    attention_backend: str = ""  # FLASH_ATTN, FLASHINFER, TRITON_ATTN, ...
    linear_backend: str = "auto"  # kernel of the linear layers: "marlin", "cutlass", ...
    structured_outputs_backend: str = "auto"  # "": requests with a guide are refused
    stream_interval: int = 1  # tokens in one response
    speculative_config: dict[str, Any] = field(default_factory=dict)  # passed on unchecked
    compilation_config: dict[str, Any] = field(default_factory=dict)  # passed on unchecked
    more_engine_args: dict[str, Any] = field(default_factory=dict)  # passed on unchecked

    def __post_init__(self) -> None:
        require_one_of(DTYPES, self, "", "dtype")
        require_one_of(QUANTIZATIONS, self, "", "quantization")
        require_one_of(KV_CACHE_DTYPES, self, "", "kv_cache_dtype")
        require_one_of(STRUCTURED_OUTPUTS_BACKENDS, self, "", "structured_outputs_backend")
        require_at_least(
            1, self, "", "tensor_parallel_size", "pipeline_parallel_size", "stream_interval"
        )
        require_at_least(
            0, self, "", "kv_cache_memory_bytes", "num_gpu_blocks_override", "block_size"
        )
        share = self.gpu_memory_utilization
        require(0 < share <= 1, "gpu_memory_utilization", share, "above 0 and up to 1")
        sizes = self.cudagraph_capture_sizes
        require(all(s >= 1 for s in sizes), "cudagraph_capture_sizes", sizes, "sizes of at least 1")
        self._check_more_arguments()

    def _check_more_arguments(self) -> None:
        taken = {*RESERVED_ARGUMENTS, *(one.name for one in fields(self))}
        for name in self.more_engine_args:
            require(
                name not in taken,
                "more_engine_args",
                self.more_engine_args,
                f"no {name}: limits, an option or the runtime itself sets it",
            )
