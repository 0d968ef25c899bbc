"""OpenVINO GenAI's engine: an OpenVINO model over the checkpoint's own 4-bit bytes."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.llama_config import LlamaConfig
from host.console import BuildError, at_least_1

from engines.engine_json import (
    AUTO,
    KV_BLOCK_TOKENS,
    KV_CACHE_PRECISIONS,
    PRECISIONS,
    Limits,
    ModelShape,
    OpenVinoOptions,
    Settled,
    find_cpu_isa,
    import_openvino,
    settle,
)
from engines.hardware import check_memory, machine_memory_bytes
from engines.step import (
    CompileRequest,
    CompileStep,
    Plan,
    installed_version,
    plan_limits,
    validated,
)

if TYPE_CHECKING:  # numpy, which --help must not need
    from checkpoints.nvfp4 import Checkpoint

    from engines.token_table import TokenTable

DEFAULT_KV_CACHE_TOKENS = 16384  # 2 GB for the 8B model in bf16


@dataclass(frozen=True)
class OpenVinoRequest:
    """`runtime_options` of a profile: tokens, where engine.json has blocks."""

    precision: str = AUTO
    kv_cache_precision: str = AUTO
    kv_cache_tokens: int = 0  # 0: as many as the longest requests need, up to the default
    threads: int = 0  # 0: one for each core
    prefix_caching: bool = False


class CompileStepOpenVino(CompileStep[OpenVinoRequest]):
    """See the module's docstring."""

    options_type = OpenVinoRequest
    flags = tuple(field.name for field in fields(OpenVinoRequest))

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument_group("openvino").add_argument
        add(
            "--kv-cache-tokens",
            type=at_least_1,
            help="tokens of all requests that the KV cache holds (16384)",
        )
        add(
            "--precision",
            choices=PRECISIONS,
            help="of the arithmetic: f32 to equal the reference; auto, settled when the engine is "
            "loaded, is bf16 on a CPU that computes it and f32 elsewhere (auto)",
        )
        add(
            "--kv-cache-precision",
            choices=KV_CACHE_PRECISIONS,
            help="auto: f32 with --precision f32, else what suits the arithmetic (auto)",
        )
        add("--threads", type=int, help="0: one for each core (0)")
        add(
            "--prefix-caching",
            action="store_true",
            default=None,
            help="prompts that begin alike share their KV blocks; off, because OpenVINO GenAI "
            "2026.4 gives some requests that share blocks under load wrong tokens",
        )

    def check_machine(self, request: CompileRequest[OpenVinoRequest]) -> None:
        super().check_machine(request)
        _versions()
        if find_cpu_isa().lack:
            raise BuildError(find_cpu_isa().lack)

    def plan(self, request: CompileRequest[OpenVinoRequest], llama: LlamaConfig) -> Plan:
        limits = plan_limits(request.limits, llama)
        built_with = _versions()
        chosen = _engine_options(request.options, limits)
        least, settled = _least_memory(llama, chosen)
        check_memory(request.hardware, least)
        reason = f"precision on this machine, settled at each load: {settled}"
        return Plan(limits, asdict(chosen), built_with, (reason,))

    def write(self, checkpoint: Checkpoint, table: TokenTable, plan: Plan, folder: Path) -> None:
        import_openvino()  # first: it switches the telemetry off
        from engines.openvino_graph import write_openvino_model
        from engines.openvino_guides import write_guide_files

        write_openvino_model(checkpoint, plan.limits.max_seq_len, folder)
        write_guide_files(table, checkpoint.config.eos_token_ids[0], folder)


def _engine_options(wanted: OpenVinoRequest, limits: Limits) -> OpenVinoOptions:
    tokens = wanted.kv_cache_tokens
    if not tokens:
        enough = limits.max_batch_size * limits.max_seq_len
        tokens = max(limits.max_seq_len, min(enough, DEFAULT_KV_CACHE_TOKENS))
    if tokens < limits.max_seq_len:
        raise BuildError(
            f"--kv-cache-tokens must be at least --max-seq-len, {limits.max_seq_len}, not "
            f"{tokens}: the longest request that is admitted has to fit"
        )
    return validated(
        OpenVinoOptions,
        num_kv_blocks=-(-tokens // KV_BLOCK_TOKENS),
        precision=wanted.precision,
        kv_cache_precision=wanted.kv_cache_precision,
        num_threads=wanted.threads,
        enable_prefix_caching=wanted.prefix_caching,
    )


def _least_memory(llama: LlamaConfig, options: OpenVinoOptions) -> tuple[int, Settled]:
    """The least bytes that the engine needs here, and the precisions that it then has."""
    shape = ModelShape.of(asdict(llama))
    memory = machine_memory_bytes()

    def needed(precision: str, kv_cache_precision: str) -> int:
        cache = shape.kv_cache_bytes(options.num_kv_blocks, kv_cache_precision)
        return shape.weight_bytes(precision) + cache

    settled = settle(options, find_cpu_isa(), lambda *pair: needed(*pair) <= memory)
    return needed(settled.precision, settled.kv_cache_precision), settled


def _versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in ("openvino", "openvino-genai"):
        version = installed_version(package)
        if version is None:
            raise BuildError(f"{package} is not installed; run \"pip install '.[server]'\"")
        versions[package] = version
    return versions
