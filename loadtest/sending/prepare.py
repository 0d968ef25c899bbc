"""Before the load: asks the server what it is and for its unloaded texts, makes the prompts."""

from __future__ import annotations

import asyncio
import http.client
import os
import platform
from collections.abc import Callable
from pathlib import Path

from command_line.options import OptionError, RunOptions
from figures.server_metrics import parse_metrics
from figures.server_samples import fetch_metrics, metrics_url

from sending import sdk
from sending.messages import Prepared, Unloaded
from sending.source import LoadSource
from sending.unloaded import UnloadedCache, server_identity, unloaded_texts


async def prepare(
    source: LoadSource, client: sdk.Client, options: RunOptions, show: Callable[[str], None]
) -> Prepared:
    """Raises ValueError, one sentence, if the run cannot begin. `show` gets each step."""
    show("asking the server")
    if problem := await first_problem(client, options):
        raise OptionError(problem)
    server = await served(client, options)
    shares = options.shares()
    name = next(iter(shares)) if len(shares) == 1 else options.workload.replace(" ", "")
    if not options.text_check or not source.mix.distinct:
        texts = Unloaded()
    else:
        cache = UnloadedCache(await asyncio.to_thread(server_identity, options))
        texts = await unloaded_texts(source.mix, client, show, cache)
    return Prepared(name, source.sha256(), source.recorded, texts, server, describe_machine())


async def first_problem(client: sdk.Client, options: RunOptions) -> str:
    """Why this process gets no answer, one sentence, or ""."""
    problem = await sdk.first_request(client, options.sampling_options())
    if not problem:
        return ""
    return f"a first request to the model {options.model!r} at {options.url} failed: {problem}"


async def served(client: sdk.Client, options: RunOptions) -> dict[str, str]:
    """`server` (as triton 2.51.0), and what its engine tells of itself in llama_fp4_engine_info:
    runtime, model (the checkpoint's name), checkpoint_sha256, ... Only what is known is in it."""
    told = {"server": await sdk.server_version(client)}
    try:
        url = metrics_url(options.metrics_url, options.url)
        metrics = parse_metrics(await asyncio.to_thread(fetch_metrics, url))
    except (OSError, http.client.HTTPException, ValueError):
        return told  # the report says of the metrics why they could not be read
    return told | {name: value for name, value in metrics.engine.items() if value}


def describe_machine() -> str:
    """`Intel(R) Xeon(R) CPU, 2 of 2 cores, 24 GB, Linux 6.1, Python 3.11.7`."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{_processor()}, {usable} of {os.cpu_count()} cores, {memory:.0f} GB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
