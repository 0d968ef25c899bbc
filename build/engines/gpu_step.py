"""What the compile steps of the GPU runtimes have in common.

Their `runtime_options` are a dataclass of the runtime's own, in a profile as in engine.json; they
load the checkpoint as it is; and their limits follow from the GPUs' memory.
"""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from checkpoints.layout import complete_layout, layout_bytes
from checkpoints.llama_config import LlamaConfig
from checkpoints.nvfp4 import Checkpoint
from host.console import BuildError, Phase
from host.gpus import Gpu

from engines.engine_json import EngineConfigError, Limits, parse_section
from engines.first_run import prove_engine
from engines.gpu_limits import fit_gpu
from engines.hardware import check_memory, choose_gpus, gpu_memory_bytes
from engines.step import CompileStep, Plan, installed_version, link_or_copy, plan_limits
from engines.token_table import TokenTable

QUANTIZATION = "hf_quant_config.json"
FACT_PACKAGES = ("torch", "tensorrt")  # beside the runtime's own, where they are installed


class GpuCompileStep(CompileStep):
    """A runtime on NVIDIA GPUs; `Options` is its dataclass of runtime_options."""

    needs_gpu_scales = True
    runtime: ClassVar[str]
    options_type: ClassVar[type]
    packages: ClassVar[tuple[str, ...]]  # names under which the library may be installed
    install: ClassVar[str]  # how to get it, as the end of a sentence
    oldest: ClassVar[tuple[int, ...]]
    needs: ClassVar[str]  # of a GPU, in words

    def __init__(self) -> None:
        self._python = ""  # the interpreter that has the library; "": this one

    @staticmethod
    def can_compute(gpu: Gpu) -> bool:
        """Whether the runtime can serve the checkpoint on it."""
        return gpu.has_fp4

    def parallel(self, chosen: Any) -> tuple[int, int]:
        """Tensor and pipeline parallel size."""
        return chosen.tensor_parallel_size, chosen.pipeline_parallel_size

    def longest(self, llama: LlamaConfig) -> int:
        """The longest request, in tokens, that the runtime takes for this model."""
        return llama.max_position_embeddings

    def memory_shares(self, chosen: Any) -> tuple[float, float]:
        """What the runtime takes of the GPU's memory, and the KV cache of what is left of that."""
        raise NotImplementedError

    def check_library(self, chosen: Any, version: str) -> None:
        """Raise `BuildError` for options that this version of the library does not have."""

    def settle(
        self, chosen: Any, limits: Limits, gpus: list[Gpu], llama: LlamaConfig
    ) -> tuple[Any, tuple[str, ...]]:
        """The options with what follows from machine and limits, and sentences that say why."""
        return chosen, ()

    @classmethod
    def profile_values(cls, runtime_options: dict[str, Any]) -> dict[str, Any]:
        cls.parse(runtime_options)
        return {"runtime_options": runtime_options}

    @classmethod
    def parse(cls, runtime_options: dict[str, Any]) -> Any:
        """The validated dataclass; raises `BuildError`."""
        try:
            return parse_section(cls.options_type, runtime_options, "runtime_options")
        except EngineConfigError as error:
            raise BuildError(str(error)) from None

    def chosen_options(self, options: argparse.Namespace) -> Any:
        """The profile's options, with those of the command line before them."""
        return self.parse(options.runtime_options)

    def check_machine(self, options: argparse.Namespace) -> None:
        self._machine(options)

    def _machine(self, options: argparse.Namespace) -> tuple[Any, list[Gpu], str]:
        """The options, the GPUs and the library's version; raises `BuildError`."""
        check_memory(options.hardware)
        chosen = self.chosen_options(options)
        count = math.prod(self.parallel(chosen))
        gpus = choose_gpus(self.runtime, options.hardware, count, self.can_compute, self.needs)
        self._python = options.engine_python
        version = self._library_version(options.engine_python)
        self.check_library(chosen, version)
        return chosen, gpus, version

    def _library_version(self, python: str) -> str:
        version = installed_version(*self.packages, python=python)
        if version is None:
            raise BuildError(f"the package {self.packages[0]} is not installed; {self.install}")
        if numbers_of(version)[: len(self.oldest)] < self.oldest:
            least = ".".join(map(str, self.oldest))
            raise BuildError(
                f"{self.packages[0]} is {version}, allowed is {least} or later; {self.install}"
            )
        return version

    def plan(self, options: argparse.Namespace, llama: LlamaConfig) -> Plan:
        chosen, gpus, version = self._machine(options)
        check_parallel(llama, self.parallel(chosen)[0])
        taken, kv_share = self.memory_shares(chosen)
        memory = int(taken * min(gpu_memory_bytes(gpu) for gpu in gpus))
        weights = layout_bytes(complete_layout(llama))
        fit = fit_gpu(llama, weights, memory, len(gpus), kv_share)
        limits = plan_limits(
            options,
            llama,
            max_seq_len=min(fit.max_seq_len, self.longest(llama)),
            max_batch_size=fit.max_batch_size,
            max_num_tokens=fit.max_num_tokens,
        )
        fit.check(limits.max_seq_len)
        chosen, why = self.settle(chosen, limits, gpus, llama)
        built_with = {self.packages[0]: version, **_facts(gpus, options.engine_python)}
        return Plan(limits, asdict(chosen), built_with, (*fit.reasons_for(limits), *why))

    def write(self, checkpoint: Checkpoint, table: TokenTable, plan: Plan, folder: Path) -> None:
        place_checkpoint(checkpoint, folder)

    def prove(self, folder: Path) -> None:
        prove_engine(folder)


def numbers_of(version: str) -> tuple[int, ...]:
    """Major, minor and patch number, as far as they are there."""
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
                f"tensor_parallel_size is {parallel}, allowed is a number that divides the model: "
                f"its {name} {value} is no multiple of {divisor}"
            )


def place_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Put the weights into the engine's folder; hard links where they can be."""
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
