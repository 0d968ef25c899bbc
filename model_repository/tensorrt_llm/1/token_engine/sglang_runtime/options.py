"""`runtime_options` of a SGLang engine. Imports no SGLang: the build reads it too.

Names are those of SGLang's `ServerArgs`, so that its documentation applies. Arguments that are not
listed keep the library's default, as do the values 0 and "". `limits` of engine.json go to
`context_length`, `max_running_requests` and `chunked_prefill_size`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from token_engine.checks import require, require_at_least, require_one_of

# SGLang refuses prompts longer than context_length - 7, and silently cuts max_new_tokens to 2 less
# than the rest (scheduler.py, tp_worker.py).
CONTEXT_RESERVE = 7
DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS = ("", "modelopt_fp4")
KV_CACHE_DTYPES = ("auto", "bfloat16", "fp8_e4m3", "fp8_e5m2", "nvfp4")
FP4_BACKENDS = (
    "auto",
    "flashinfer_cudnn",
    "flashinfer_cutedsl",
    "flashinfer_cutlass",
    "flashinfer_trtllm",
    "marlin",
)
GRAMMAR_BACKENDS = ("xgrammar", "llguidance", "outlines", "none")
# Arguments that the runtime sets itself: from `limits`, or because room 2 depends on the value.
RESERVED_ARGUMENTS = (
    "model_path",
    "tokenizer_path",
    "skip_tokenizer_init",
    "context_length",
    "max_running_requests",
    "chunked_prefill_size",
    "incremental_streaming_output",
    "enable_priority_scheduling",
    "schedule_low_priority_values_first",
    "priority_scheduling_preemption_threshold",
    "sampling_defaults",
    "preferred_sampling_params",
    "allow_auto_truncate",
    "rl_on_policy_target",  # turns deterministic inference on, regardless of the option
)


@dataclass(frozen=True)
class SglangOptions:
    """What `engine.json` may say to this runtime."""

    model_directory: str = ""  # relative to the engine's, or absolute; "": the engine's own
    tp_size: int = 1
    pp_size: int = 1
    dtype: str = "auto"  # of what is not quantized; "auto": the checkpoint's
    quantization: str = ""  # "": what the checkpoint says; "modelopt_fp4" insists on it
    # "auto": what the checkpoint was calibrated for. Types other than fp8 are refused for
    # a checkpoint whose KV scales are not 1 (kv_scales.py).
    kv_cache_dtype: str = "auto"
    mem_fraction_static: float = 0.0  # of the GPU's memory, for weights and KV cache
    max_total_tokens: int = 0  # of the KV cache
    page_size: int = 0  # tokens of a KV block
    disable_radix_cache: bool = False  # true: prompts that begin alike share nothing
    attention_backend: str = ""  # "fa3", "flashinfer", "triton", ...
    fp4_gemm_runner_backend: str = "auto"  # "auto": marlin before Blackwell
    grammar_backend: str = "xgrammar"  # "none": requests with a guide are refused
    stream_interval: int = 1  # tokens in one response
    disable_cuda_graph: bool = False
    # Only deterministic inference honours seeds. false: faster, honours min_p, and refuses requests
    # with a seed.
    enable_deterministic_inference: bool = True
    more_server_args: dict[str, Any] = field(default_factory=dict)  # passed on unchecked

    @property
    def drafts(self) -> bool:
        """Whether tokens are drafted (speculative decoding)."""
        return bool(self.more_server_args.get("speculative_algorithm"))

    def __post_init__(self) -> None:
        require_one_of(DTYPES, self, "", "dtype")
        require_one_of(QUANTIZATIONS, self, "", "quantization")
        require_one_of(KV_CACHE_DTYPES, self, "", "kv_cache_dtype")
        require_one_of(FP4_BACKENDS, self, "", "fp4_gemm_runner_backend")
        require_one_of(GRAMMAR_BACKENDS, self, "", "grammar_backend")
        require_at_least(1, self, "", "tp_size", "pp_size", "stream_interval")
        require_at_least(0, self, "", "max_total_tokens", "page_size")
        share = self.mem_fraction_static
        require(0 <= share < 1, "mem_fraction_static", share, "0 and up, below 1")
        taken = {*RESERVED_ARGUMENTS, *(one.name for one in fields(self))}
        for name in self.more_server_args:
            require(
                name not in taken,
                "more_server_args",
                self.more_server_args,
                f"no {name}: limits, an option or the runtime itself sets it",
            )
