"""SGLang's engine: the checkpoint itself. Nothing is compiled ahead; it is run once.

Like vLLM, it computes in FP4 on Blackwell and with the Marlin kernel on earlier GPUs.
"""

from __future__ import annotations

from dataclasses import replace

from checkpoints.llama_config import LlamaConfig
from host.console import BuildError
from host.gpus import Gpu

from engines.engine_json import (
    CONTEXT_RESERVE,
    EngineLoadError,
    Limits,
    SglangOptions,
    check_kv_scales,
    marlin_note,
)
from engines.gpu_step import GpuCompileStep
from engines.step import CompileRequest, Plan

DEFAULT_MEMORY_SHARE = 0.85  # about the library's own choice


class CompileStepSglang(GpuCompileStep[SglangOptions]):
    """See the module's docstring."""

    runtime = "sglang"
    options_type = SglangOptions
    packages = ("sglang",)
    install = "install sglang 0.5.23 or later into the Python that runs the engine"
    oldest = (0, 5, 23)
    needs = "needs a GPU with the Marlin kernel (Ampere, sm80) or FP4 tensor cores (Blackwell)"

    @staticmethod
    def can_compute(gpu: Gpu) -> bool:
        return gpu.has_fp4 or gpu.has_marlin

    def parallel(self, chosen: SglangOptions) -> tuple[int, int]:
        return chosen.tp_size, chosen.pp_size

    def memory_shares(self, chosen: SglangOptions) -> tuple[float, float]:
        return chosen.mem_fraction_static or DEFAULT_MEMORY_SHARE, 1.0

    def longest(self, llama: LlamaConfig) -> int:
        return llama.max_position_embeddings - CONTEXT_RESERVE

    def plan(self, request: CompileRequest[SglangOptions], llama: LlamaConfig) -> Plan:
        plan = super().plan(request, llama)
        try:
            check_kv_scales(request.checkpoint, plan.runtime_options["kv_cache_dtype"])
        except EngineLoadError as error:
            raise BuildError(str(error)) from None
        return plan

    def settle(
        self, chosen: SglangOptions, limits: Limits, gpus: list[Gpu], llama: LlamaConfig
    ) -> tuple[SglangOptions, tuple[str, ...]]:
        if limits.max_seq_len > self.longest(llama):
            raise BuildError(
                f"max_seq_len must be at most {self.longest(llama)} with runtime sglang, which "
                f"keeps {CONTEXT_RESERVE} positions for itself, not {limits.max_seq_len}"
            )
        note = marlin_note(gpus[0].name, gpus[0].capability)
        return replace(chosen, quantization="modelopt_fp4"), (note,) if note else ()
