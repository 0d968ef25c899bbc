"""What the compile steps of the GPU runtimes have in common.

Their `runtime_options` are a dataclass of the runtime's own, in a profile as in engine.json; they
load the checkpoint as it is; and their limits follow from the GPUs' memory by arithmetic:

Memory of one GPU = weights + activations of one forward pass + CUDA graphs + the runtime itself,
and the KV cache gets a share of the rest. Figures: TensorRT-LLM's KvCacheConfig and
CudaGraphConfig documentation ("each CUDA graph can use up to 200 MB", 90 % of free memory).
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from checkpoints.llama_config import LlamaConfig
from host.console import BuildError, Phase
from host.gpus import Gpu

from engines.engine_json import Limits
from engines.hardware import GIB, check_memory, choose_gpus, gpu_memory_bytes
from engines.step import (
    CompileRequest,
    CompileStep,
    Options,
    Plan,
    installed_version,
    link_or_copy,
    plan_limits,
)

if TYPE_CHECKING:  # as the imports in functions: numpy, which --help must not need
    from checkpoints.nvfp4 import Checkpoint

    from engines.token_table import TokenTable

QUANTIZATION = "hf_quant_config.json"
FACT_PACKAGES = ("torch", "tensorrt")  # recorded beside the runtime's own, if installed
RUNTIME_BYTES = 2 * GIB  # CUDA context, NCCL, workspaces of the kernels
GRAPH_BYTES = 200 * 2**20  # each captured batch size, at most
GRAPHS = 8  # batch sizes 1, 2, 4, ... 128
KV_SHARE = 0.9
KV_BYTES = 1  # FP8
LONGEST = 32768  # tokens of one request, even if more would fit: prompts of many pages
LARGEST_BATCH = 256
USUAL_TOKENS = 2048  # of one request, prompt and answer; batches are sized by it
FORWARD_TOKENS = 8192  # TensorRT-LLM's own default of max_num_tokens


class GpuCompileStep(CompileStep[Options]):
    """A runtime on NVIDIA GPUs, with what the three differ in."""

    needs_gpu_scales = True
    runtime: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]  # the library's possible names
    install: ClassVar[str]  # how to get it, as the end of a sentence
    oldest: ClassVar[tuple[int, ...]]
    needs: ClassVar[str]  # what it needs of a GPU, in words

    def __init__(self) -> None:
        self._python = ""  # the interpreter that has the library; "": this one

    @staticmethod
    def can_compute(gpu: Gpu) -> bool:
        """Whether the runtime can serve an NVFP4 checkpoint on this GPU."""
        return gpu.has_fp4

    def parallel(self, chosen: Options) -> tuple[int, int]:
        """Tensor and pipeline parallel size."""
        sizes: Any = chosen  # as TensorRT-LLM's and vLLM's options have them
        return sizes.tensor_parallel_size, sizes.pipeline_parallel_size

    def longest(self, llama: LlamaConfig) -> int:
        """The longest request, in tokens, that the runtime takes for this model."""
        return llama.max_position_embeddings

    def memory_shares(self, chosen: Options) -> tuple[float, float]:
        """The runtime's share of the GPU's memory, and the KV cache's share of what that leaves."""
        raise NotImplementedError

    def check_library(self, chosen: Options, version: str) -> None:
        """Raise `BuildError` for options that this version of the library does not have."""

    def settle(
        self, chosen: Options, limits: Limits, gpus: list[Gpu], llama: LlamaConfig
    ) -> tuple[Options, tuple[str, ...]]:
        """The options completed for this machine and limits, and sentences that say why."""
        return chosen, ()

    def check_machine(self, request: CompileRequest[Options]) -> None:
        self._machine(request)

    def _machine(self, request: CompileRequest[Options]) -> tuple[list[Gpu], str]:
        """The GPUs and the library's version; raises `BuildError`."""
        check_memory(request.hardware)
        count = math.prod(self.parallel(request.options))
        gpus = choose_gpus(self.runtime, request.hardware, count, self.can_compute, self.needs)
        self._python = request.engine_python
        version = self._library_version(request.engine_python)
        self.check_library(request.options, version)
        return gpus, version

    def _library_version(self, python: str) -> str:
        version = installed_version(*self.packages, python=python)
        if version is None:
            raise BuildError(f"the package {self.packages[0]} is not installed; {self.install}")
        if numbers_of(version)[: len(self.oldest)] < self.oldest:
            least = ".".join(map(str, self.oldest))
            raise BuildError(
                f"{self.packages[0]} must be {least} or later, not {version}; {self.install}"
            )
        return version

    def plan(self, request: CompileRequest[Options], llama: LlamaConfig) -> Plan:
        from checkpoints.layout import complete_layout, layout_bytes

        gpus, version = self._machine(request)
        options = request.options
        check_parallel(llama, self.parallel(options)[0])
        taken, kv_share = self.memory_shares(options)
        memory = int(taken * min(gpu_memory_bytes(gpu) for gpu in gpus))
        weights = layout_bytes(complete_layout(llama))
        fit = fit_gpu(llama, weights, memory, len(gpus), kv_share)
        limits = plan_limits(
            request.limits,
            llama,
            max_seq_len=min(fit.max_seq_len, self.longest(llama)),
            max_batch_size=fit.max_batch_size,
            max_num_tokens=fit.max_num_tokens,
        )
        fit.check(limits.max_seq_len)
        settled, why = self.settle(options, limits, gpus, llama)
        built_with = {self.packages[0]: version, **_facts(gpus, request.engine_python)}
        return Plan(limits, asdict(settled), built_with, (*fit.reasons_for(limits), *why))

    def write(self, checkpoint: Checkpoint, table: TokenTable, plan: Plan, folder: Path) -> None:
        place_checkpoint(checkpoint, folder)

    def prove(self, folder: Path) -> None:
        from engines.first_run import prove_engine

        prove_engine(folder)


def numbers_of(version: str) -> tuple[int, ...]:
    """Major, minor and patch number, as many as there are."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def check_parallel(llama: LlamaConfig, parallel: int) -> None:
    """Raise `BuildError` unless every GPU gets whole heads and whole blocks of 16 columns."""
    for name, value, divisor in (
        ("num_key_value_heads", llama.num_key_value_heads, parallel),
        ("num_attention_heads", llama.num_attention_heads, parallel),
        ("intermediate_size", llama.intermediate_size, 16 * parallel),
    ):
        if value % divisor:
            raise BuildError(
                f"tensor_parallel_size must divide the model, {parallel} does not: its {name} "
                f"{value} is not a multiple of {divisor}"
            )


def place_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Hard-link the weights into the engine's folder, or copy them."""
    names = {tensor.path.name for tensor in checkpoint.tensors.values()}
    names |= {"model.safetensors.index.json", QUANTIZATION}
    with Phase("placing the checkpoint in the engine"):
        for name in sorted(names):
            if (checkpoint.directory / name).is_file():
                link_or_copy(checkpoint.directory / name, folder / name)


def _facts(gpus: list[Gpu], python: str) -> dict[str, str]:
    first = gpus[0]
    facts = {
        "gpu": first.name,
        "gpus": str(len(gpus)),
        "compute_capability": first.compute_capability,
        "driver": first.driver,
    }
    versions = {name: installed_version(name, python=python) for name in FACT_PACKAGES}
    return facts | {name: version for name, version in versions.items() if version}


@dataclass(frozen=True)
class GpuFit:
    """What fits, and why: one reason for the KV cache, and one for each limit by name."""

    max_seq_len: int
    max_batch_size: int
    max_num_tokens: int
    kv_cache_tokens: int
    kv_cache_reason: str
    reasons: dict[str, str]

    def check(self, max_seq_len: int) -> None:
        """Raise `BuildError` unless the longest request that is admitted fits the KV cache."""
        if max_seq_len > self.kv_cache_tokens:
            raise BuildError(
                f"max_seq_len must be at most {self.kv_cache_tokens}, not {max_seq_len}: "
                f"{self.kv_cache_reason}"
            )

    def reasons_for(self, limits: Limits) -> tuple[str, ...]:
        """Why the limits are what they are; a stated one says so."""
        lines = [self.kv_cache_reason]
        for name, reason in self.reasons.items():
            value, chosen = getattr(limits, name), getattr(self, name)
            stated = f"as stated (this memory alone would give {chosen})"
            lines.append(f"{name} {value}: {reason if value == chosen else stated}")
        return tuple(lines)


def fit_gpu(
    llama: LlamaConfig,
    weight_bytes: int,
    memory_bytes: int,
    parallel: int = 1,
    kv_share: float = KV_SHARE,
) -> GpuFit:
    """Choose limits for `parallel` GPUs of `memory_bytes` each, which share weights and heads.

    The KV cache gets `kv_share` of what is left. Raises `BuildError` if nothing fits."""
    weights = weight_bytes / parallel
    activations = _activation_bytes(llama, FORWARD_TOKENS) / parallel
    fixed = weights + activations + GRAPHS * GRAPH_BYTES + RUNTIME_BYTES
    left = memory_bytes - fixed
    per_token = llama.kv_values_per_token * KV_BYTES / parallel
    tokens = int(kv_share * left / per_token)
    if tokens < USUAL_TOKENS:
        raise BuildError(
            f"a GPU of {memory_bytes / GIB:.1f} GiB is too small: weights {weights / GIB:.1f}, "
            f"activations {activations / GIB:.1f}, CUDA graphs {GRAPHS * GRAPH_BYTES / GIB:.1f} "
            f"and the runtime {RUNTIME_BYTES / GIB:.1f} GiB leave {max(0, left) / GIB:.1f} GiB; "
            "use a larger GPU or a higher tensor_parallel_size"
        )
    seq_len = min(llama.max_position_embeddings, LONGEST, tokens)
    batch = max(1, min(LARGEST_BATCH, tokens // USUAL_TOKENS))
    kv_cache = (
        f"KV cache of {tokens} tokens: {memory_bytes / GIB:.1f} GiB less weights "
        f"{weights / GIB:.1f}, activations {activations / GIB:.1f}, CUDA graphs "
        f"{GRAPHS * GRAPH_BYTES / GIB:.1f} and the runtime {RUNTIME_BYTES / GIB:.1f} GiB, "
        f"{kv_share:.0%} of the rest at {per_token / 1024:.0f} KiB a token (FP8)"
    )
    reasons = {
        "max_seq_len": f"the least of the model's {llama.max_position_embeddings}, {LONGEST} and "
        "the KV cache",
        "max_batch_size": f"as many requests of {USUAL_TOKENS} tokens as the KV cache holds "
        f"(at most {LARGEST_BATCH})",
        "max_num_tokens": "longer prompts are computed in chunks of this size",
    }
    return GpuFit(seq_len, batch, FORWARD_TOKENS, tokens, kv_cache, reasons)


def _activation_bytes(llama: LlamaConfig, tokens: int) -> float:
    """BF16: residual, attention and the two halves of the MLP at once; logits of a full batch."""
    q_size = llama.num_attention_heads * llama.head_dim
    layer = tokens * 2 * (2 * llama.hidden_size + 2 * q_size + 2 * llama.intermediate_size)
    return layer + LARGEST_BATCH * llama.vocab_size * 4
