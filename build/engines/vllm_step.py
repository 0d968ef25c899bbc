"""vLLM's engine: the checkpoint itself. Nothing is compiled ahead; it is run once.

On Blackwell its kernels compute in FP4; on Hopper, Ada and Ampere the Marlin kernel computes in
BF16 from the 4-bit weights.
"""

from __future__ import annotations

from dataclasses import replace

from checkpoints.llama_config import LlamaConfig
from host.gpus import Gpu

from engines.engine_json import Limits, VllmOptions, marlin_note
from engines.gpu_step import GpuCompileStep


class CompileStepVllm(GpuCompileStep[VllmOptions]):
    """See the module's docstring."""

    runtime = "vllm"
    options_type = VllmOptions
    packages = ("vllm",)
    install = "install vllm 0.32 or later into the Python that runs the engine"
    oldest = (0, 32)
    needs = "needs a GPU with the Marlin kernel (Ampere, sm80) or FP4 tensor cores (Blackwell)"

    @staticmethod
    def can_compute(gpu: Gpu) -> bool:
        return gpu.has_fp4 or gpu.has_marlin

    def memory_shares(self, chosen: VllmOptions) -> tuple[float, float]:
        return chosen.gpu_memory_utilization, 1.0

    def settle(
        self, chosen: VllmOptions, limits: Limits, gpus: list[Gpu], llama: LlamaConfig
    ) -> tuple[VllmOptions, tuple[str, ...]]:
        """Name the quantization: the checkpoint is known to be Model Optimizer's NVFP4."""
        note = marlin_note(gpus[0].name, gpus[0].capability)
        return replace(chosen, quantization="modelopt_fp4"), (note,) if note else ()
