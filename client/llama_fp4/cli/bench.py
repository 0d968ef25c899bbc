"""`llama-fp4 bench`: concurrent requests, and the latency and tokens/s that a client sees."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from llama_fp4.answers import Timing
from llama_fp4.async_client import AsyncClient
from llama_fp4.cli.options import (
    ServerOptions,
    add_sampling_options,
    add_server_options,
    check_text,
    sampling_params,
    server_options,
)
from llama_fp4.cli.output import (
    INTERRUPTED,
    OK,
    SERVER_ERROR,
    TIMEOUT,
    note,
    say,
    say_json,
    say_table,
)
from llama_fp4.errors import InvalidRequest, LlamaError, RequestTimeout
from llama_fp4.sampling import SamplingParams

PROMPT = "Tell me how a steam engine works."
PERCENTS = (50, 90, 99)


@dataclass(frozen=True)
class BenchOptions:
    """`requests` in all, `concurrency` of them at once."""

    server: ServerOptions
    params: SamplingParams
    requests: int
    concurrency: int
    prompt: str


@dataclass
class Measured:
    """What has come so far; seconds and tokens of whole answers only."""

    timings: list[Timing] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # ITL, one for each token after the first
    errors: list[LlamaError] = field(default_factory=list)
    started_at: float = field(default_factory=perf_counter)
    ended_at: float = 0.0

    @property
    def tokens(self) -> int:
        """Output tokens, or responses if the server does not count tokens."""
        return sum(t.num_output_tokens or t.num_responses for t in self.timings)


def add_bench_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `llama-fp4 bench`."""
    parser.add_argument("--requests", type=_count, default=32, metavar="N", help="default: 32")
    parser.add_argument(
        "--concurrency", type=_count, default=4, metavar="N", help="at once (default: 4)"
    )
    parser.add_argument("--prompt", default=PROMPT, metavar="TEXT", help=f"default: {PROMPT!r}")
    add_server_options(parser)
    add_sampling_options(parser)


def bench_options(given: argparse.Namespace) -> BenchOptions:
    """Raises `InvalidRequest`."""
    return BenchOptions(
        server_options(given),
        sampling_params(given),
        given.requests,
        given.concurrency,
        check_text("--prompt", given.prompt),
    )


def run_bench(options: BenchOptions) -> int:
    """Exit code 1 if a request failed (3 if all failures were timeouts).

    Ctrl-C prints what has been measured. Raises `LlamaError` if the server cannot be asked, or
    refuses the request as wrong.
    """
    measured, code = Measured(), OK
    try:
        asyncio.run(_ask_all(options, measured))
    except KeyboardInterrupt:
        code = INTERRUPTED
    measured.ended_at = perf_counter()
    if options.server.as_json:
        say_json(summary(measured))
    else:
        _say_tables(measured, options)
    if code == OK and measured.errors:
        late = all(isinstance(error, RequestTimeout) for error in measured.errors)
        code = TIMEOUT if late else SERVER_ERROR
    return code


def summary(measured: Measured) -> dict[str, Any]:
    """All figures: seconds, percentiles by nearest rank; None where nothing was measured."""
    seconds = measured.ended_at - measured.started_at
    return {
        "requests": len(measured.timings),
        "failed": len(measured.errors),
        "errors": dict(Counter(type(error).__name__ for error in measured.errors)),
        "seconds": seconds,
        "output_tokens": measured.tokens,
        "output_tokens_per_s": measured.tokens / seconds,
        "requests_per_s": len(measured.timings) / seconds,
        "ttft_s": _spread([t.ttft_s for t in measured.timings if t.ttft_s is not None]),
        "itl_s": _spread(measured.gaps),
        "e2e_s": _spread([t.e2e_s for t in measured.timings if t.e2e_s is not None]),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank: the smallest value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(percent / 100 * len(ordered)), 1) - 1]


async def _ask_all(options: BenchOptions, measured: Measured) -> None:
    async with AsyncClient(**options.server.arguments()) as client:
        # The connection is made before the clock runs.
        await client.metadata(options.server.ask_s)
        measured.started_at = perf_counter()
        left = iter(range(options.requests))

        async def work() -> None:
            for _ in left:
                await _ask(client, options.prompt, options.params, measured)
                _progress(measured, options)

        workers = [
            asyncio.ensure_future(work()) for _ in range(min(options.concurrency, options.requests))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _ask(
    client: AsyncClient, prompt: str, params: SamplingParams, measured: Measured
) -> None:
    gaps: list[float] = []
    before = 0.0
    try:
        async with client.stream(prompt, params) as stream:
            async for chunk in stream:
                now = perf_counter()
                tokens = chunk.num_output_tokens or int(bool(chunk.text))
                if before and tokens:
                    gaps += [(now - before) / tokens] * tokens
                if tokens or not before:
                    before = now
    except InvalidRequest:
        raise  # all the others would be refused too
    except LlamaError as error:
        measured.errors.append(error)
        return
    measured.gaps += gaps
    measured.timings.append(stream.timing)


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    ranks = {f"p{percent}": percentile(values, percent) for percent in PERCENTS}
    return {**ranks, "mean": sum(values) / len(values)}


def _progress(measured: Measured, options: BenchOptions) -> None:
    if sys.stderr.isatty() and not options.server.as_json:
        done = len(measured.timings) + len(measured.errors)
        end = "\n" if done == options.requests else ""
        sys.stderr.write(f"\r{done} of {options.requests} requests{end}")
        sys.stderr.flush()


def _say_tables(measured: Measured, options: BenchOptions) -> None:
    found = summary(measured)
    done = found["requests"] + found["failed"]
    if sys.stderr.isatty() and done < options.requests:
        note("")
    say(
        f"{done} of {options.requests} requests, {options.concurrency} at once, "
        f"{found['seconds']:.2f} s, {found['failed']} failed"
    )
    if found["requests"]:
        rows = []
        for name in ("ttft_s", "itl_s", "e2e_s"):
            spread = found[name] or {}
            numbers = [f"{value * 1000:.1f}" for value in spread.values()] or ["-"] * 4
            rows.append([f"{name[:-2].upper()} ms", *numbers])
        say()
        say_table(rows, ["", *(f"p{percent}" for percent in PERCENTS), "mean"])
        say()
        say(
            f"{found['output_tokens_per_s']:.1f} output tokens/s "
            f"({found['output_tokens']} tokens), "
            f"{found['requests_per_s']:.2f} requests/s"
        )
    for name, count in found["errors"].items():
        example = next(error for error in measured.errors if type(error).__name__ == name)
        say(f"{count} {name}, such as: {example}")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r:.60}")
    return int(text)
