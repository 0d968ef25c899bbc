"""The options of a run, checked. arguments.py reads them from the command line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures.slo import parse_slos
from traffic.arrivals import PROCESSES
from traffic.faults import parse_faults
from traffic.mix import REPLAY, parse_mix
from traffic.prompts import MOST_TOKENS
from traffic.workloads import DEFAULT_SLOS, NOT_OPTIONS, Shape

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_TOKENIZER = ROOT / "model_repository" / "preprocessing" / "1" / "engine" / "tokenizer.json"
DEFAULT_URL = "127.0.0.1:8001"
DEFAULT_DURATION_S = 60
DEFAULT_RATE = 4.0
DRAIN_S = 60.0
WARMUP_MOST_S = 5.0
MOST_ARRIVALS = 10_000_000  # every worker iterates over all
ABOVE_0: tuple[str, ...] = ("rate", "burstiness", "load_s", "speed", "turns", "max_in_flight")
ABOVE_0 += ("over_long_tokens", "users")
FROM_0: tuple[str, ...] = ("warmup_s", "drain_s", "distinct_prompts", "max_input_tokens")
FROM_0 += ("think_s", "prefix_tokens", "max_lag_s", "spawn_rate")
NAMES = {"load": "run-time", "drain": "stop-timeout", "think": "think-time"}  # where they differ


class OptionError(ValueError):
    """One sentence that names the option, its value and what it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of a run, the same on every worker."""

    url: str = DEFAULT_URL
    model: str = "ensemble"
    workload: str = "128/128"  # or several: chat=2,128/128=1
    arrivals: str = "poisson"
    rate: float = DEFAULT_RATE  # requests/s of all workers together
    burstiness: float = 1.0
    closed_loop: bool = False
    users: int = 1  # of a closed loop
    spawn_rate: float = 0.0  # users/s; 0: all of a closed loop's users start together
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
    max_lag_s: float = 0.0  # 0: as figures/validity.py allows
    output: str = ""
    records: bool = True

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.warmup_s >= self.load_s:
            raise OptionError(
                f"--warmup must be less than -t's {self.load_s:g} s, not {self.warmup_s:g} s"
            )
        if self.arrivals not in PROCESSES:
            raise OptionError(
                f"--arrivals must be one of {', '.join(PROCESSES)}, not {self.arrivals!r}"
            )
        if self.arrivals == "trace" and not self.replay:
            raise OptionError("--arrivals is trace, which needs a recording: --replay FILE")
        self._check_search()
        self.sampling_options()
        self.stall_times()
        try:
            parse_slos(self.slos, self.shares())
            parse_faults(self.faults)
        except ValueError as error:
            raise OptionError(str(error)) from error
        self._check_recording()

    def _check_numbers(self) -> None:
        for name in (*ABOVE_0, *FROM_0):
            value = getattr(self, name)
            least = "above 0" if name in ABOVE_0 else "from 0 on"
            # NaN fails both comparisons, and json and float() accept infinity.
            if not (value > 0 or (value == 0 and name in FROM_0)) or math.isinf(value):
                raise OptionError(f"--{_dashed(name)} must be a number {least}, not {value}")
        timed = self.closed_loop or self.arrivals == "trace"  # not --rate
        if not timed and self.rate * self.load_s > MOST_ARRIVALS:
            raise OptionError(
                f"--rate must be at most {MOST_ARRIVALS / self.load_s:g}/s, {MOST_ARRIVALS:,} "
                f"arrivals in all of --run-time, not {self.rate:g}"
            )
        for name in ("prefix_tokens", "over_long_tokens"):
            if (tokens := getattr(self, name)) > MOST_TOKENS:
                raise OptionError(
                    f"--{_dashed(name)} must be at most {MOST_TOKENS:,}, not {tokens}"
                )

    def _check_search(self) -> None:
        if not self.find_max_rate:
            return
        if self.closed_loop:
            raise OptionError(
                "--find-max-rate searches the arrival rate of an open loop, and --closed-loop has "
                "none: leave one of the two out"
            )
        if self.arrivals == "trace":
            raise OptionError(
                "--find-max-rate changes the arrival rate, and --replay keeps the recorded times: "
                "with --arrivals poisson the recorded requests come at the searched rate"
            )

    def _check_recording(self) -> None:
        shares = self.shares()
        if REPLAY in shares and not self.replay:
            raise OptionError(f"--workload has {REPLAY}, which needs a recording: --replay FILE")
        if len(shares) == 1:
            return
        if self.replay and REPLAY not in shares:
            raise OptionError(
                f"--replay is {self.replay!r}, but --workload {self.workload!r} is a mix without "
                f"{REPLAY}; must be as {self.workload},{REPLAY}=1"
            )
        if self.arrivals == "trace":
            raise OptionError(
                f"--arrivals is trace, the times of a recording alone; --workload "
                f"{self.workload!r} is a mix, --arrivals must be one of {', '.join(PROCESSES[:-1])}"
            )

    def shares(self) -> dict[str, float]:
        """The share of the arrivals that each workload gets."""
        shares = parse_mix(self.workload)
        return {REPLAY: 1.0} if self.replay and len(shares) == 1 else shares

    def sampling_options(self) -> dict[str, Any]:
        """The JSON object of `--sampling`; raises `OptionError`."""
        try:
            document = json.loads(self.sampling or "{}")
        except ValueError as error:
            raise OptionError(f"--sampling is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise OptionError(f"--sampling must be a JSON object, not {self.sampling!r}")
        if taken := sorted(set(document) & set(NOT_OPTIONS)):
            raise OptionError(f"--sampling has {taken[0]!r}, which the workload or run itself sets")
        return document

    def stall_times(self) -> tuple[float, float] | None:
        """When the server is stopped and for how long (`--stall AT:SECONDS`), or None."""
        if not self.stall:
            return None
        at, _, seconds = self.stall.partition(":")
        try:
            times = float(at), float(seconds)
        except ValueError:
            raise OptionError(f"--stall must be AT:SECONDS, as 20:3, not {self.stall!r}") from None
        if not all(math.isfinite(each) and each >= 0 for each in times):
            raise OptionError(f"--stall must be seconds from 0 on, not {self.stall!r}")
        if self.stall_pid <= 0:
            raise OptionError("--stall needs the server's process: --stall-pid PID")
        return times

    def shape(self, workload: str) -> Shape:
        """The options that define this workload."""
        return Shape(
            name=workload,
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
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> RunOptions:
        """The inverse of `to_dict`."""
        return cls(**document)


def _dashed(name: str) -> str:
    name = name.removesuffix("_s").replace("_", "-")
    return NAMES.get(name, name)
