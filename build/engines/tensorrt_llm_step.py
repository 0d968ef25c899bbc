"""TensorRT-LLM's engine: the checkpoint itself for its PyTorch backend, or a TensorRT engine.

`--backend pytorch` (TensorRT-LLM 1.0 and later): the library loads the NVFP4 checkpoint. Nothing is
compiled ahead; one run of the engine tunes its kernels and captures its CUDA graphs. `--backend
tensorrt` (1.0 to 1.2): a TensorRT engine, made for this library's version and this kind of GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.llama_config import LlamaConfig
from host.console import BuildError, Phase
from host.gpus import Gpu

from engines.engine_json import Limits, TensorRtLlmOptions
from engines.gpu_step import GpuCompileStep, numbers_of
from engines.step import Plan

if TYPE_CHECKING:  # numpy, which --help must not need
    from checkpoints.nvfp4 import Checkpoint

    from engines.token_table import TokenTable

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
LAST_WITH_ENGINES = (1, 2)
ENGINE_FOLDER = "tensorrt_engine"
BUILDER = Path(__file__).with_name("build_tensorrt_engine.py")
LARGEST_GRAPH = 256  # for larger batches arithmetic takes longer than launching kernels


class CompileStepTensorRtLlm(GpuCompileStep[TensorRtLlmOptions]):
    """See the module's docstring."""

    runtime = "tensorrt_llm"
    options_type = TensorRtLlmOptions
    flags = ("backend",)
    packages = ("tensorrt_llm", "tensorrt-llm")
    install = f"use the image {IMAGE}"
    oldest = (1, 0)
    needs = "needs the FP4 tensor cores of Blackwell (sm100, sm103, sm120 or sm121)"

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument_group("tensorrt_llm").add_argument
        add("--backend", choices=("pytorch", "tensorrt"), help="(pytorch); tensorrt: 1.0 to 1.2")

    def memory_shares(self, chosen: TensorRtLlmOptions) -> tuple[float, float]:
        return 1.0, chosen.kv_cache_config.free_gpu_memory_fraction

    def check_library(self, chosen: TensorRtLlmOptions, version: str) -> None:
        if chosen.backend == "tensorrt" and numbers_of(version)[:2] > LAST_WITH_ENGINES:
            raise BuildError(
                f"--backend is 'tensorrt', but TensorRT-LLM {version} builds and runs no TensorRT "
                "engines (1.2 was the last release that did); use --backend pytorch"
            )
        # Without the package the library silently runs TRTLLM's kernels instead. For another
        # interpreter the first run checks that.
        wanted = chosen.attn_backend == "FLASHINFER" and not self._python
        if wanted and find_spec("flashinfer") is None:
            raise BuildError(
                "attn_backend is 'FLASHINFER', but the package flashinfer is not installed; "
                "set attn_backend to 'TRTLLM'"
            )

    def settle(
        self, chosen: TensorRtLlmOptions, limits: Limits, gpus: list[Gpu], llama: LlamaConfig
    ) -> tuple[TensorRtLlmOptions, tuple[str, ...]]:
        """CUDA graphs up to the full batch, where the options leave their sizes to the build."""
        if chosen.backend == "tensorrt":
            return replace(chosen, model_directory=ENGINE_FOLDER), ()
        graphs = chosen.cuda_graph_config
        if not graphs.enabled or graphs.batch_sizes or graphs.max_batch_size:
            return chosen, ()
        largest = min(limits.max_batch_size, LARGEST_GRAPH)
        why = f"cuda_graph_config.max_batch_size {largest}: max_batch_size, up to {LARGEST_GRAPH}"
        graphs = replace(graphs, max_batch_size=largest)
        return replace(chosen, cuda_graph_config=graphs), (why,)

    def write(self, checkpoint: Checkpoint, table: TokenTable, plan: Plan, folder: Path) -> None:
        if plan.runtime_options["backend"] == "pytorch":
            super().write(checkpoint, table, plan, folder)
        else:
            _build_engine(checkpoint.directory, plan, folder / ENGINE_FOLDER, self._python)


def _build_engine(checkpoint: Path, plan: Plan, folder: Path, python: str) -> None:
    """Build in a child process, which frees the GPU's memory when it ends and may crash."""
    limits, options = plan.limits, plan.runtime_options
    job: dict[str, Any] = {
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
    command = [python or sys.executable, str(BUILDER), json.dumps(job)]
    environment = dict(os.environ)
    for name in ("PYTHONHOME", "PYTHONPATH") if python else ():  # of another Python's packages
        environment.pop(name, None)
    with Phase("building the TensorRT engine"):
        done = subprocess.run(command, check=False, env=environment)
    if done.returncode or not (folder / "config.json").is_file():
        raise BuildError(
            f"TensorRT-LLM {plan.built_with['tensorrt_llm']} could not build the engine (see "
            "above); --backend pytorch needs none"
        )
