"""The load test's command line, on top of Locust's own, and what of it a run is made of.

Locust's own options keep their meaning: `-H` is the server (`host:port` of its gRPC endpoint),
`-t` the load's duration, `-u` the users of a closed loop, `-s` how long a drain may take.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrivals import PROCESSES
from journeys import parse_faults
from slo import parse_slos
from workloads import DEFAULT_SLOS, MLPERF_SLOS, NOT_OPTIONS, Shape, workload_names

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_TOKENIZER = ROOT / "model_repository" / "preprocessing" / "1" / "engine" / "tokenizer.json"
DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_DURATION_S = 60
DEFAULT_RATE = 4.0
DRAIN_S = 60.0
WARMUP_SHARE, WARMUP_MOST_S = 0.1, 5.0
ABOVE_0 = ("rate", "burstiness", "load_s", "speed", "turns", "max_in_flight", "over_long_tokens")
FROM_0: tuple[str, ...] = ("warmup_s", "drain_s", "distinct_prompts", "max_input_tokens")
FROM_0 += ("think_s", "prefix_tokens", "max_lag_s")
NAMES = {"load": "run-time", "drain": "stop-timeout", "think": "think-time"}  # where they differ


class OptionError(ValueError):
    """One sentence that names the option, its value and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """A run, as every worker is told it."""

    url: str = DEFAULT_URL
    model: str = "ensemble"
    workload: str = "128/128"
    arrivals: str = "poisson"
    rate: float = DEFAULT_RATE  # requests/s of all workers together
    burstiness: float = 1.0
    closed_loop: bool = False
    load_s: float = float(DEFAULT_DURATION_S)  # warm-up and measured window
    warmup_s: float = WARMUP_MOST_S
    drain_s: float = DRAIN_S
    seed: int = 0
    slos: str = DEFAULT_SLOS
    tokenizer: str = str(DEFAULT_TOKENIZER)
    distinct_prompts: int = 32
    max_input_tokens: int = 0
    normal_lengths: bool = False
    prefix_tokens: int = 0
    turns: int = 3
    think_s: float = 2.0
    sampling: str = ""  # JSON
    replay: str = ""
    speed: float = 1.0
    faults: str = ""
    over_long_tokens: int = 200_000
    stall: str = ""
    stall_pid: int = 0
    text_check: bool = True
    max_in_flight: int = 2000
    stop_when_saturated: bool = False
    find_max_rate: bool = False
    metrics_url: str = ""
    max_lag_s: float = 0.0  # 0: as self_check.py allows
    output: str = ""
    records: bool = True

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.warmup_s >= self.load_s:
            raise OptionError(
                f"--warmup is {self.warmup_s:g} s, allowed is less than -t's {self.load_s:g} s"
            )
        if self.arrivals not in PROCESSES:
            raise OptionError(
                f"--arrivals is {self.arrivals!r}, allowed is one of {', '.join(PROCESSES)}"
            )
        if self.arrivals == "trace" and not self.replay:
            raise OptionError("--arrivals is trace, which needs a recording: --replay FILE")
        self.sampling_options()
        self.stall_times()
        try:
            parse_slos(self.slos)
            parse_faults(self.faults)
        except ValueError as error:
            raise OptionError(str(error)) from error

    def _check_numbers(self) -> None:
        for name in (*ABOVE_0, *FROM_0):
            value = getattr(self, name)
            least = "above 0" if name in ABOVE_0 else "from 0 on"
            # nan is neither; json and float() take inf, which no clock comes to.
            if not (value > 0 or (value == 0 and name in FROM_0)) or math.isinf(value):
                raise OptionError(f"--{_dashed(name)} is {value}, allowed is a number {least}")

    def sampling_options(self) -> dict[str, Any]:
        """`--sampling`'s JSON object."""
        try:
            document = json.loads(self.sampling or "{}")
        except ValueError as error:
            raise OptionError(f"--sampling is no JSON: {error}") from error
        if not isinstance(document, dict):
            raise OptionError(f"--sampling is {self.sampling!r}, expected a JSON object")
        if taken := sorted(set(document) & set(NOT_OPTIONS)):
            raise OptionError(f"--sampling has {taken[0]!r}, which the workload or run itself sets")
        return document

    def stall_times(self) -> tuple[float, float] | None:
        """`--stall AT:SECONDS`: when the server is stopped, and for how long; else None."""
        if not self.stall:
            return None
        at, _, seconds = self.stall.partition(":")
        try:
            times = float(at), float(seconds)
        except ValueError:
            raise OptionError(f"--stall is {self.stall!r}, expected AT:SECONDS as 20:3") from None
        if not all(math.isfinite(each) and each >= 0 for each in times):
            raise OptionError(f"--stall is {self.stall!r}, allowed are seconds from 0 on")
        if self.stall_pid <= 0:
            raise OptionError("--stall needs the server's process: --stall-pid PID")
        return times

    def shape(self) -> Shape:
        """What of it makes the workload."""
        return Shape(
            name=self.workload,
            seed=self.seed,
            distinct=self.distinct_prompts,
            max_input=self.max_input_tokens,
            normal_lengths=self.normal_lengths,
            prefix_tokens=self.prefix_tokens,
            turns=self.turns,
            think_s=self.think_s,
            options=self.sampling_options(),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> RunOptions:
        """The way back from `to_dict`."""
        return cls(**document)


def run_options(parsed: argparse.Namespace) -> RunOptions:
    """Of Locust's parsed options; raises `OptionError`."""
    values = {
        field.name: getattr(parsed, field.name)
        for field in dataclasses.fields(RunOptions)
        if hasattr(parsed, field.name)
    }
    load_s = float(parsed.run_time or DEFAULT_DURATION_S)
    values["load_s"] = load_s
    values["url"] = (parsed.host or DEFAULT_URL).removeprefix("grpc://")
    values["drain_s"] = float(parsed.stop_timeout or 0) or DRAIN_S
    if values["warmup_s"] is None or values["warmup_s"] == "":
        values["warmup_s"] = min(WARMUP_MOST_S, WARMUP_SHARE * load_s)
    try:
        values["warmup_s"] = float(values["warmup_s"])
    except ValueError:
        raise OptionError(f"--warmup is {values['warmup_s']!r}, expected seconds") from None
    values["slos"] = values["slos"] or MLPERF_SLOS.get(values["workload"], DEFAULT_SLOS)
    if values["replay"] and parsed.arrivals == "poisson" and parsed.rate == DEFAULT_RATE:
        values["arrivals"] = "trace"
    return RunOptions(**values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Locust's `init_command_line_parser`."""
    _add_load(parser.add_argument_group("llama: load"))
    _add_requests(parser.add_argument_group("llama: requests"))
    _add_faults(parser.add_argument_group("llama: faults"))
    _add_results(parser.add_argument_group("llama: results"))
    # Locust's own table rounds to milliseconds and knows one time a request; ours comes instead.
    parser.set_defaults(only_summary=True)


def _add_load(group: Any) -> None:
    default = RunOptions()
    group.add_argument(
        "--rate", type=float, default=default.rate, help="arrivals/s of all workers together"
    )
    group.add_argument(
        "--arrivals", default=default.arrivals, help="poisson, constant, gamma or trace"
    )
    group.add_argument(
        "--burstiness", type=float, default=1.0, help="gamma's shape: below 1 comes in bursts"
    )
    group.add_argument(
        "--closed-loop",
        action="store_true",
        help="every user (-u) waits for its answer before it asks again; hides stalls",
    )
    group.add_argument(
        "--warmup", dest="warmup_s", default="", help="seconds left out, of -t's (a tenth, up to 5)"
    )
    group.add_argument("--seed", type=int, default=0, help="of arrivals, prompts and faults")
    group.add_argument(
        "--max-in-flight",
        type=int,
        default=default.max_in_flight,
        help="requests of one worker at once; arrivals beyond fail as ClientLimit",
    )
    group.add_argument(
        "--stop-when-saturated",
        action="store_true",
        help="end as soon as the SLOs cannot be held any more",
    )
    group.add_argument(
        "--find-max-rate",
        action="store_true",
        help="search the highest rate that holds the SLOs, from --rate on, -t for each",
    )


def _add_requests(group: Any) -> None:
    default = RunOptions()
    group.add_argument("--workload", default=default.workload, help=workload_names())
    group.add_argument("--model", default=default.model, help="the model to call")
    group.add_argument(
        "--tokenizer",
        default=default.tokenizer,
        help="tokenizer.json of the served checkpoint, for prompts of exact length",
    )
    group.add_argument(
        "--distinct-prompts",
        type=int,
        default=default.distinct_prompts,
        help="prompts that the requests draw from; 0: each its own, texts then unchecked",
    )
    group.add_argument(
        "--max-input-tokens", type=int, default=0, help="cut longer prompts to this (0: do not)"
    )
    group.add_argument(
        "--normal-lengths", action="store_true", help="IN/OUT are means of normal distributions"
    )
    group.add_argument("--prefix-tokens", type=int, default=0, help="of shared-prefix (1024)")
    group.add_argument("--turns", type=int, default=default.turns, help="of a chat")
    group.add_argument(
        "--think-time", dest="think_s", type=float, default=default.think_s, help="mean seconds"
    )
    group.add_argument("--sampling", default="", help='client options, as {"temperature": 0.7}')
    group.add_argument("--replay", default="", help="a recording, one JSON object a line")
    group.add_argument("--speed", type=float, default=1.0, help="of the recording's times")


def _add_faults(group: Any) -> None:
    default = RunOptions()
    group.add_argument(
        "--faults",
        default="",
        help="shares of arrivals: cancel_storm=0.1,slow_reader=0.05,over_long=0.02",
    )
    group.add_argument("--over-long-tokens", type=int, default=default.over_long_tokens)
    group.add_argument("--stall", default="", help="AT:SECONDS, the server stopped by SIGSTOP")
    group.add_argument("--stall-pid", type=int, default=0, help="the server's process")


def _add_results(group: Any) -> None:
    group.add_argument(
        "--slo", dest="slos", default="", help=f"as {DEFAULT_SLOS}; broken ones end with exit 1"
    )
    group.add_argument(
        "--max-lag",
        dest="max_lag_s",
        type=float,
        default=0.0,
        help="seconds (p99) that a valid run's client may be late (0.02, or 5 %% of the tail)",
    )
    group.add_argument(
        "--metrics-url", default="", help="Triton's metrics (the server's host, port 8002)"
    )
    group.add_argument("--output", default="", help="folder (build/out/loadtest/DATE-TIME)")
    group.add_argument(
        "--no-records", dest="records", action="store_false", help="write no records.jsonl"
    )
    group.add_argument(
        "--no-text-check",
        dest="text_check",
        action="store_false",
        help="do not compare greedy texts with unloaded ones",
    )


def _dashed(name: str) -> str:
    name = name.removesuffix("_s").replace("_", "-")
    return NAMES.get(name, name)
