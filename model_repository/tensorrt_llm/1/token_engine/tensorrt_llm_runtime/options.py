"""`runtime_options` of a TensorRT-LLM engine. Imports no TensorRT-LLM: the build reads it too.

Names are those of the library's `LLM` arguments, so that its documentation applies; what is left
out here keeps the library's default. 0, "" and {} leave a number, a word or a table to the library.
`limits` of engine.json go to the arguments of the same names (`max_seq_len`, `max_batch_size`,
`max_num_tokens`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from token_engine.checks import require, require_at_least, require_one_of

BACKENDS = ("pytorch", "tensorrt")
# The library silently takes any other word, even "flashinfer", for TRTLLM.
ATTENTION_BACKENDS = ("TRTLLM", "FLASHINFER", "VANILLA")
KV_CACHE_DTYPES = ("auto", "fp8", "nvfp4")
GUIDED_DECODING_BACKENDS = ("", "xgrammar", "llguidance")
SAMPLERS = ("auto", "TorchSampler", "TRTLLMSampler")
CAPACITY_POLICIES = ("GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH")
CHUNKING_POLICIES = ("", "FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS", "FORCE_CHUNK")
WAITING_POLICIES = ("", "fcfs", "priority")
# A TensorRT engine has these built in, or does not have them at all.
PYTORCH_ONLY = (
    "attn_backend",
    "cuda_graph_config",
    "disable_overlap_scheduler",
    "enable_autotuner",
    "enable_early_first_token_response",
    "sampler_type",
)
# Arguments of `LLM` that the runtime sets itself, from `limits`, from the options below or because
# room 2 needs them so.
RESERVED_ARGUMENTS = (
    "model",
    "tokenizer",
    "skip_tokenizer_init",
    "max_seq_len",
    "max_batch_size",
    "max_num_tokens",
    "max_input_len",
    "max_beam_width",
    "generation_config",
    "enable_iter_perf_stats",
    "enable_trtllm_sampler",
    "num_postprocess_workers",
)


@dataclass(frozen=True)
class KvCacheOptions:
    """`KvCacheConfig` of the library."""

    free_gpu_memory_fraction: float = 0.9  # of the memory that is free after the weights are loaded
    max_tokens: int = 0  # 0: as many as the fraction holds
    # "auto": what the checkpoint was calibrated for; "fp8"; "nvfp4" from 1.3 on (1.2 warns that it
    # cannot sync it with the checkpoint, and keeps the checkpoint's).
    dtype: str = "auto"
    enable_block_reuse: bool = True  # prompts that begin alike share their KV blocks
    enable_partial_reuse: bool = True  # ... and the part of a block that is alike
    host_cache_size: int = 0  # bytes of host memory that evicted blocks go to

    def __post_init__(self) -> None:
        fraction = self.free_gpu_memory_fraction
        require(
            0 < fraction <= 1,
            "kv_cache_config.free_gpu_memory_fraction",
            fraction,
            "above 0 and up to 1",
        )
        require_at_least(0, self, "kv_cache_config", "max_tokens", "host_cache_size")
        require_one_of(KV_CACHE_DTYPES, self, "kv_cache_config", "dtype")


@dataclass(frozen=True)
class CudaGraphOptions:
    """`CudaGraphConfig` of the library. Each batch size takes up to 200 MB."""

    enabled: bool = True  # false: every decoding step is launched kernel by kernel
    batch_sizes: list[int] = field(default_factory=list)
    max_batch_size: int = 0  # with batch_sizes: their largest, or 0
    enable_padding: bool = True  # a batch between two sizes runs as the larger one

    def __post_init__(self) -> None:
        where, sizes, largest = "cuda_graph_config", self.batch_sizes, self.max_batch_size
        require(all(s >= 1 for s in sizes), f"{where}.batch_sizes", sizes, "sizes of at least 1")
        require_at_least(0, self, where, "max_batch_size")
        # Versions treat the pair differently; all of them accept two equal values.
        fits = not sizes or largest in (0, max(sizes))
        require(fits, f"{where}.max_batch_size", largest, "0, or the largest of batch_sizes")


@dataclass(frozen=True)
class SchedulerOptions:
    """`SchedulerConfig` of the library."""

    capacity_scheduler_policy: str = "GUARANTEED_NO_EVICT"  # MAX_UTILIZATION evicts and recomputes
    context_chunking_policy: str = ""  # FORCE_CHUNK from 1.4 on
    # For requests that the library holds and has no KV cache for. "priority": by ours, where the
    # version has it (1.3 on).
    waiting_queue_policy: str = ""

    def __post_init__(self) -> None:
        require_one_of(CAPACITY_POLICIES, self, "scheduler_config", "capacity_scheduler_policy")
        require_one_of(CHUNKING_POLICIES, self, "scheduler_config", "context_chunking_policy")
        require_one_of(WAITING_POLICIES, self, "scheduler_config", "waiting_queue_policy")


@dataclass(frozen=True)
class TensorRtLlmOptions:
    """What `engine.json` may say to this runtime."""

    backend: str = "pytorch"  # "tensorrt": a directory of trtllm-build; TensorRT-LLM 1.0 to 1.2
    model_directory: str = ""  # relative to the engine's, or absolute; "": the engine's own
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    kv_cache_config: KvCacheOptions = field(default_factory=KvCacheOptions)
    cuda_graph_config: CudaGraphOptions = field(default_factory=CudaGraphOptions)
    scheduler_config: SchedulerOptions = field(default_factory=SchedulerOptions)
    enable_chunked_prefill: bool = True  # false: no prompt is longer than max_num_tokens
    attn_backend: str = "TRTLLM"
    guided_decoding_backend: str = "xgrammar"  # "": requests with a guide are refused
    # "auto": the one that honours most. "TorchSampler" is faster up to 1.3, and ignores penalties,
    # min_p and bad words; no TorchSampler keeps seeds: see versions.py.
    sampler_type: str = "auto"
    stream_interval: int = 1  # tokens in one response
    disable_overlap_scheduler: bool = False  # true: the CPU's work is not hidden behind the GPU's
    enable_autotuner: bool = True
    # true: the overlap scheduler hands out the first token one step earlier (1.3 on).
    enable_early_first_token_response: bool = False
    speculative_config: dict[str, Any] = field(default_factory=dict)  # passed to the library unread
    more_llm_arguments: dict[str, Any] = field(default_factory=dict)  # passed to the library unread

    def __post_init__(self) -> None:
        require_one_of(BACKENDS, self, "", "backend")
        require_one_of(ATTENTION_BACKENDS, self, "", "attn_backend")
        require_one_of(GUIDED_DECODING_BACKENDS, self, "", "guided_decoding_backend")
        require_one_of(SAMPLERS, self, "", "sampler_type")
        require_at_least(
            1, self, "", "tensor_parallel_size", "pipeline_parallel_size", "stream_interval"
        )
        config = self.speculative_config
        named = not config or isinstance(config.get("decoding_type"), str)
        require(named, "speculative_config", config, "a table with a decoding_type")
        self._check_more_arguments()
        if self.backend == "tensorrt":
            self._check_tensorrt()

    def _check_more_arguments(self) -> None:
        taken = {*RESERVED_ARGUMENTS, *(one.name for one in fields(self))}
        for name in self.more_llm_arguments:
            require(
                name not in taken,
                "more_llm_arguments",
                self.more_llm_arguments,
                f"no {name}: limits, an option or the runtime itself sets it",
            )

    def _check_tensorrt(self) -> None:
        for one in fields(self):
            if one.name in PYTORCH_ONLY:
                value = getattr(self, one.name)
                default = one.default_factory() if callable(one.default_factory) else one.default
                require(value == default, one.name, value, f"{default!r} with backend 'tensorrt'")
        guides = self.guided_decoding_backend
        needed = "'xgrammar' or '' with backend 'tensorrt'"
        require(guides != "llguidance", "guided_decoding_backend", guides, needed)
        dtype = self.kv_cache_config.dtype
        require(dtype == "auto", "kv_cache_config.dtype", dtype, "'auto' with backend 'tensorrt'")
