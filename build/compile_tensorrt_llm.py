"""TensorRT-LLM's engine: the checkpoint itself for its PyTorch backend, or a TensorRT engine.

`--backend pytorch` (TensorRT-LLM 1.0 and later): the library loads the NVFP4 checkpoint; nothing is
compiled ahead, but the engine is run once, so that kernels are tuned and CUDA graphs captured
before anybody waits for them. `--backend tensorrt` (1.0 to 1.2): a TensorRT engine, made for this
library's version and this kind of GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from build_console import BuildError, Phase
from checkpoint_layout import complete_layout, layout_bytes
from compile_plan import Plan, installed_version, plan_limits
from engine_description import Limits, TensorRtLlmOptions
from gpu_compile_step import GpuCompileStep, place_checkpoint
from gpu_limits import fit_gpu
from hardware_check import check_memory, choose_gpus, gpu_memory_bytes
from llama_config import LlamaConfig
from nvfp4_checkpoint import Checkpoint
from nvidia_gpus import Gpu
from token_table import TokenTable

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
OLDEST = (1, 0)
LAST_WITH_ENGINES = (1, 2)
ENGINE_FOLDER = "tensorrt_engine"
BUILDER = Path(__file__).with_name("build_tensorrt_engine.py")
LARGEST_GRAPH = 256  # a batch beyond it is bound by arithmetic, not by launching kernels


class CompileStepTensorRtLlm(GpuCompileStep):
    """See the module's docstring."""

    runtime = "tensorrt_llm"
    options_type = TensorRtLlmOptions

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument_group("tensorrt_llm").add_argument
        add("--backend", choices=("pytorch", "tensorrt"), help="(pytorch); tensorrt: 1.0 to 1.2")

    def check_machine(self, options: argparse.Namespace) -> None:
        self._machine(options)

    def _machine(self, options: argparse.Namespace) -> tuple[TensorRtLlmOptions, list[Gpu], str]:
        """The options, the GPUs and the library's version; raises `BuildError`."""
        check_memory(options.hardware)
        chosen = self.runtime_options(options, backend=options.backend)
        assert isinstance(chosen, TensorRtLlmOptions)
        gpus = choose_gpus(
            self.runtime,
            options.hardware,
            chosen.tensor_parallel_size * chosen.pipeline_parallel_size,
            lambda gpu: gpu.has_fp4,
            "needs the FP4 tensor cores of Blackwell (sm100, sm103, sm120 or sm121)",
        )
        return chosen, gpus, _check_library(chosen)

    def plan(self, options: argparse.Namespace, llama: LlamaConfig) -> Plan:
        chosen, gpus, version = self._machine(options)
        check_parallel(llama, chosen.tensor_parallel_size)
        memory = min(gpu_memory_bytes(gpu) for gpu in gpus)
        share = chosen.kv_cache_config.free_gpu_memory_fraction
        fit = fit_gpu(llama, layout_bytes(complete_layout(llama)), memory, len(gpus), share)
        limits = plan_limits(
            options,
            llama,
            max_seq_len=fit.max_seq_len,
            max_batch_size=fit.max_batch_size,
            max_num_tokens=fit.max_num_tokens,
        )
        fit.check(limits.max_seq_len)
        chosen = _with_graphs(chosen, limits)
        built_with = {"tensorrt_llm": version, **_gpu_facts(gpus)}
        return Plan(limits, asdict(chosen), built_with, fit.reasons_for(limits))

    def write(self, checkpoint: Checkpoint, table: TokenTable, plan: Plan, folder: Path) -> None:
        if plan.runtime_options["backend"] == "pytorch":
            place_checkpoint(checkpoint, folder)
        else:
            _build_engine(checkpoint.directory, plan, folder / ENGINE_FOLDER)


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


def _check_library(options: TensorRtLlmOptions) -> str:
    version = installed_version("tensorrt_llm", "tensorrt-llm")
    if version is None:
        raise BuildError(f"the package tensorrt_llm is not installed; use the image {IMAGE}")
    release = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if release < OLDEST:
        raise BuildError(f"TensorRT-LLM is {version}, allowed is 1.0 or later; use {IMAGE}")
    if options.backend == "tensorrt" and release > LAST_WITH_ENGINES:
        raise BuildError(
            f"--backend is 'tensorrt', and TensorRT-LLM {version} builds and runs no TensorRT "
            "engines any more (1.2 was the last that did); use --backend pytorch"
        )
    # Without the package the library runs TRTLLM's kernels instead, and does not say so.
    if options.attn_backend == "FLASHINFER" and find_spec("flashinfer") is None:
        raise BuildError(
            "attn_backend is 'FLASHINFER' and the package flashinfer is not installed; "
            "set attn_backend to 'TRTLLM'"
        )
    return version


def _gpu_facts(gpus: list[Gpu]) -> dict[str, str]:
    first = gpus[0]
    facts = {
        "gpu": first.name,
        "gpus": str(len(gpus)),
        "compute_capability": first.compute_capability,
        "driver": first.driver,
    }
    for package in ("torch", "tensorrt"):
        version = installed_version(package)
        if version is not None:
            facts[package] = version
    return facts


def _with_graphs(options: TensorRtLlmOptions, limits: Limits) -> TensorRtLlmOptions:
    """CUDA graphs up to the full batch, where the options leave their sizes to the build; and the
    place of what is built."""
    if options.backend == "tensorrt":
        return replace(options, model_directory=ENGINE_FOLDER)
    graphs = options.cuda_graph_config
    if graphs.enabled and not graphs.batch_sizes and not graphs.max_batch_size:
        graphs = replace(graphs, max_batch_size=min(limits.max_batch_size, LARGEST_GRAPH))
    return replace(options, cuda_graph_config=graphs)


def _build_engine(checkpoint: Path, plan: Plan, folder: Path) -> None:
    """In a process of its own, which gives the GPU's memory back, and whose end is seen."""
    limits, options = plan.limits, plan.runtime_options
    told: dict[str, Any] = {
        "checkpoint": str(checkpoint.resolve()),
        "output": str(folder),
        "parallel": {
            name: options[name] for name in ("tensor_parallel_size", "pipeline_parallel_size")
        },
        "build": {
            "max_batch_size": limits.max_batch_size,
            "max_num_tokens": limits.max_num_tokens,
            "max_seq_len": limits.max_seq_len,
            "max_input_len": limits.max_seq_len,
            "max_beam_width": 1,
        },
    }
    with Phase("building the TensorRT engine"):
        done = subprocess.run([sys.executable, str(BUILDER), json.dumps(told)], check=False)
    if done.returncode or not (folder / "config.json").is_file():
        raise BuildError(
            f"TensorRT-LLM {plan.built_with['tensorrt_llm']} could not build the engine (it says "
            "why above); --backend pytorch needs none"
        )
