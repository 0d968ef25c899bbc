"""Measure an OpenVINO engine in each precision that each kind of CPU can run: speed and memory.

    python -m tests.benchmarks.precisions --engine DIR

Each line is measured in a process whose CPU is limited (OV_CPU_MAX_ISA, ONEDNN_MAX_CPU_ISA), so
that one machine measures what lesser ones do, on its own clock. Decoding is timed by the median
step, prefill left out; the cores' time of that step says more where the machine has other work.
Memory is that of the process (PSS), before and after the mapped weights file is
given back; the KV cache's is that of a full one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import host.room_paths  # noqa: F401
from engine_config import load_engine_config
from engines.engine_json import find_cpu_isa
from host.console import BuildError, run_script, say
from token_engine.interface import GenerationRequest, TokenEngine
from token_engine.openvino_runtime import engine as openvino_engine
from token_engine.openvino_runtime.cpu_isa import LIMITS
from token_engine.openvino_runtime.memory import read_shape, release_mapped_file

from tests.support.processes import memory_mib

STREAMS = (1, 8, 16)
PROMPT = (300, 301, 302, 303)
PAIRS = (("bf16", "bf16"), ("bf16", "u8"), ("f32", "f16"), ("f32", "u8"), ("f32", "f32"))
ISAS = ("", "AVX512_CORE", "AVX2")  # "": all that this CPU has
GIB = 2**30


def main() -> None:
    """The command line; with --child, one line of the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--engine", type=Path, required=True, help="as compile_engine.py writes it")
    add("--steps", type=int, default=8, help="that are timed (8)")
    add("--only", default="", metavar="ISA/PRECISION/KV", help="this line alone: AVX2/f32/f16")
    add("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        precision, kv_cache = options.child
        told = measure(options.engine, precision, kv_cache, options.steps)
        print(json.dumps(told), flush=True)
        return
    streams = ", ".join(map(str, STREAMS))
    say(
        f"| {'CPU':<12}| arithmetic | KV cache | decode tokens/s with {streams} | "
        "cores' seconds a step | load, warm-up s | PSS MiB | KV cache GiB |"
    )
    for isa, precision, kv_cache in lines(options.only):
        say(_row(isa, precision, kv_cache, options))


def lines(only: str) -> Iterator[tuple[str, str, str]]:
    """(limit, arithmetic, KV cache) of what there is to measure here; raises `BuildError`."""
    told = []
    for isa in ISAS:
        cpu = find_cpu_isa(environment={LIMITS[0]: isa})
        if isa and not cpu.limit:
            continue  # this CPU has no more than that
        for precision, kv_cache in PAIRS:
            if precision == "f32" or cpu.has_bf16:
                told.append((isa, precision, kv_cache))
    chosen = [line for line in told if only in ("", "/".join(line))]
    if not chosen:
        known = ", ".join("/".join(line) for line in told)
        raise BuildError(f"--only is {only!r}, it must be one of {known}")
    yield from chosen


def _row(isa: str, precision: str, kv_cache: str, options: argparse.Namespace) -> str:
    environment = {**os.environ, **dict.fromkeys(LIMITS, isa)} if isa else dict(os.environ)
    command = [sys.executable, "-m", "tests.benchmarks.precisions", "--engine", str(options.engine)]
    command += ["--steps", str(options.steps), "--child", precision, kv_cache]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    name = str(find_cpu_isa(environment=environment)).partition(" (")[0]
    head = f"| {name:<12}| {precision} | {kv_cache} |"
    if done.returncode:
        return f"{head} failed: exit code {done.returncode}"
    told = json.loads(done.stdout.splitlines()[-1])
    rates = ", ".join(f"{rate:.1f}" for rate in told["rates"])
    cores = ", ".join(f"{seconds:.2f}" for seconds in told["cores"])
    before, after = told["pss"]
    return (
        f"{head} {rates} | {cores} | {told['load']:.0f}, {told['warm']:.0f} | {before:,.0f}, then "
        f"{after:,.0f} | {told['kv']:.1f} |"
    )


def measure(folder: Path, precision: str, kv_cache: str, steps: int) -> dict[str, object]:
    """One engine in this process."""
    pss: list[float] = []

    def watched(path: Path) -> int:
        pss.append(memory_mib(os.getpid()))
        return release_mapped_file(path)

    setattr(openvino_engine, "release_mapped_file", watched)  # noqa: B010  strict mypy
    config = load_engine_config(folder)
    named = {"precision": precision, "kv_cache_precision": kv_cache}
    config = dataclasses.replace(config, runtime_options={**config.runtime_options, **named})
    started = time.perf_counter()
    engine = openvino_engine.OpenVinoEngine(folder, config)
    loaded = time.perf_counter()
    step_seconds(engine, 1, 2, (config.model.bos_token_id,) * config.limits.max_num_tokens)
    warm = time.perf_counter()
    times = [step_seconds(engine, count, steps, PROMPT) for count in STREAMS]
    kv = read_shape(folder).kv_cache_bytes(config.runtime_options["num_kv_blocks"], kv_cache)
    after = memory_mib(os.getpid())
    engine.shutdown()
    return {
        "load": loaded - started,
        "warm": warm - loaded,
        "rates": [count / wall for count, (wall, _) in zip(STREAMS, times, strict=True)],
        "cores": [cores for _, cores in times],
        "pss": [pss[0], after],
        "kv": kv / GIB,
    }


def step_seconds(
    engine: TokenEngine, count: int, steps: int, prompt: tuple[int, ...]
) -> tuple[float, float]:
    """The median step's, by the clock and of all cores together, of those steps in which `count`
    sequences gained a token each."""
    for key in range(1, count + 1):
        own = (*prompt[:-1], prompt[-1] + key)
        engine.submit(GenerationRequest(key, own, max_tokens=steps + 1, end_ids=()))
    times = []
    while engine.has_work:
        started, used = time.perf_counter(), time.process_time()
        gained = sum(len(delta.token_ids) for delta in engine.step())
        if gained == count:
            times.append((time.perf_counter() - started, time.process_time() - used))
    walls, cores = zip(*times, strict=True)
    return statistics.median(walls), statistics.median(cores)


if __name__ == "__main__":
    run_script(main)
