"""The load test's command line, in addition to Locust's.

Locust's own options keep their meaning: `-H` is the server (`host:port` of its gRPC endpoint),
`-t` the load's duration, `-u` the users of a closed loop, `-s` how long a drain may take.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traffic.arrivals import PROCESSES, unit_arrivals
from traffic.mix import parse_mix
from traffic.replay import ReplayError, read_recording
from traffic.workloads import DEFAULT_SLOS, default_slos, workload_names

from command_line.options import (
    DEFAULT_DURATION_S,
    DEFAULT_RATE,
    DEFAULT_URL,
    DRAIN_S,
    WARMUP_MOST_S,
    OptionError,
    RunOptions,
)

WARMUP_SHARE = 0.1
MOST_RECORDED_S = 30 * 24 * 3600  # longer ones use other units, or dates
ONLY_S = 1.0  # for a recording whose requests all come at once
MOST_SPAWNED = 100  # users a second: Locust warns of more


class GivenRate(float):
    """Marks a --rate from the command line, which may equal the default."""


@dataclass(frozen=True)
class CommandLine:
    """The run's options, and one sentence for each given option that this run does not use."""

    options: RunOptions
    unused: tuple[str, ...]


def command_line(parsed: argparse.Namespace) -> CommandLine:
    """From Locust's parsed options; raises `OptionError`."""
    given = vars(parsed)
    return CommandLine(_run_options(given), tuple(_unused(given)))


def _run_options(given: Mapping[str, Any]) -> RunOptions:
    names = (field.name for field in dataclasses.fields(RunOptions))
    values = {name: given[name] for name in names if name in given}
    values["url"] = (given["host"] or DEFAULT_URL).removeprefix("grpc://")
    values["drain_s"] = float(given["stop_timeout"] or 0) or DRAIN_S
    if given["closed_loop"]:
        values["users"] = 1 if given["num_users"] is None else given["num_users"]
        rate = given["spawn_rate"] or 0.0
        values["spawn_rate"] = 0.0 if rate >= together(values["users"]) else rate
    else:
        values.pop("spawn_rate", None)  # Locust's own option has the same name
    try:
        workloads = list(parse_mix(values["workload"]))
    except ValueError as error:
        raise OptionError(str(error)) from error
    only = workloads[0] if len(workloads) == 1 else ""
    values["slos"] = values["slos"] or default_slos(only)
    replayed = bool(only and given["replay"])
    values["rate"] = float(given["rate"])
    rated = isinstance(given["rate"], GivenRate) or given["rate"] != DEFAULT_RATE
    as_recorded = replayed and not rated and not given["closed_loop"]
    values["arrivals"] = given["arrivals"] or ("trace" if as_recorded else "poisson")
    _set_times(values, given["run_time"], replayed)
    return RunOptions(**values)


def _unused(given: Mapping[str, Any]) -> Iterator[str]:
    if given["closed_loop"]:
        defaults = {"rate": DEFAULT_RATE, "arrivals": "", "burstiness": 1.0, "speed": 1.0}
        for name, default in defaults.items():
            if given[name] != default:
                yield (
                    f"--{name} {given[name]} is not used: a --closed-loop has no arrival rate, its "
                    "users (-u) ask again as soon as they are answered"
                )
    elif given.get("headless") and given.get("users_given") and given["num_users"] > 1:
        yield (
            f"--users {given['num_users']} is not used: an open loop has a --rate, only users of a "
            "--closed-loop wait for their answers"
        )


def _set_times(values: dict[str, Any], run_time: Any, replayed: bool) -> None:
    """Set the load and warm-up times. A recording alone is sent whole and measured whole."""
    given = run_time not in (None, "")  # 0 counts as given, and is refused
    load_s = float(run_time if given else DEFAULT_DURATION_S)
    if replayed and not values["closed_loop"]:
        whole_s = _whole_s(values)
        if not given:
            load_s = whole_s
        elif values["arrivals"] == "trace":
            load_s = min(load_s, whole_s)  # nothing comes after it
    warmup_s = values["warmup_s"]
    if warmup_s is None or warmup_s == "":
        warmup_s = 0.0 if replayed else min(WARMUP_MOST_S, WARMUP_SHARE * load_s)
    try:
        values["warmup_s"] = float(warmup_s)
    except ValueError:
        raise OptionError(f"--warmup must be seconds, not {warmup_s!r}") from None
    values["load_s"] = load_s


def _whole_s(values: Mapping[str, Any]) -> float:
    """The recording's length, until one mean gap after the last request: this keeps its rates."""
    if not all(values[name] > 0 for name in ("rate", "speed", "burstiness")):
        return float(DEFAULT_DURATION_S)  # RunOptions refuses them
    try:
        times = read_recording(Path(values["replay"])).times
    except ReplayError as error:
        raise OptionError(str(error)) from error
    if values["arrivals"] == "trace":
        span_s = times[-1] / values["speed"]
        if span_s > MOST_RECORDED_S:
            raise OptionError(
                f"--replay {values['replay']} must last at most {MOST_RECORDED_S:,} s, not "
                f"{span_s:.3g} s, at --speed {values['speed']:g}"
            )
        return span_s * len(times) / (len(times) - 1) if span_s else ONLY_S
    if values["arrivals"] not in PROCESSES:
        return float(DEFAULT_DURATION_S)
    units = unit_arrivals(values["arrivals"], values["seed"], values["burstiness"])
    last, after = itertools.islice(units, len(times) - 1, len(times) + 1)
    return float((last + after) / 2 / values["rate"])


def together(users: int) -> float:
    """The --spawn-rate that starts all users of a closed loop together."""
    return float(min(max(users, 1), MOST_SPAWNED))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A listener of Locust's `init_command_line_parser`; help_page.py prints the same groups."""
    _add_load(parser.add_argument_group("llama: load"))
    _add_requests(parser.add_argument_group("llama: requests"))
    _add_faults(parser.add_argument_group("llama: faults"))
    _add_results(parser.add_argument_group("llama: results"))
    # Locust's own table rounds to milliseconds and knows one time per request: ours replaces it.
    parser.set_defaults(only_summary=True)


def _add(group: Any, flag: str, metavar: str, help: str, **more: Any) -> None:
    """Add an option with a value; its default and type are those of `RunOptions`."""
    field = more.get("dest", flag[2:].replace("-", "_"))
    default = more.setdefault("default", getattr(RunOptions(), field))
    more.setdefault("type", type(default))
    group.add_argument(flag, metavar=metavar, help=help, **more)


def _add_load(group: Any) -> None:
    _add(group, "--rate", "PER_S", "arrivals/s of all workers together", type=GivenRate)
    _add(
        group,
        "--arrivals",
        "PROCESS",
        "poisson, constant, gamma, or trace, a recording's times (default: poisson; of --replay "
        "alone, without --rate, trace)",
        default="",
    )
    _add(group, "--burstiness", "SHAPE", "gamma's shape: below 1, arrivals come in bursts")
    group.add_argument(
        "--closed-loop",
        action="store_true",
        help="every user (-u) waits for its answer before it asks again; hides stalls",
    )
    _add_limits(group)


def _add_limits(group: Any) -> None:
    _add(
        group,
        "--warmup",
        "SECONDS",
        f"left out of every figure, a part of -t (default: a tenth of it, at most "
        f"{WARMUP_MOST_S:g}; of --replay alone none)",
        dest="warmup_s",
        default="",
    )
    _add(group, "--seed", "N", "seed of arrivals, prompts and faults")
    _add(
        group,
        "--max-in-flight",
        "N",
        "requests of one worker at once; arrivals beyond it fail as ClientLimit",
    )
    group.add_argument(
        "--stop-when-saturated",
        action="store_true",
        help="end as soon as the SLOs can no longer hold",
    )
    group.add_argument(
        "--find-max-rate",
        action="store_true",
        help="search the highest rate that holds the SLOs, starting from --rate; each rate takes "
        "-t, or longer where its percentiles need more requests",
    )


def _add_requests(group: Any) -> None:
    _add(group, "--workload", "NAME", f"{workload_names()}; several by weight: chat=2,128/128=1")
    _add(group, "--model", "NAME", "the model to call")
    _add(
        group,
        "--tokenizer",
        "FILE",
        "tokenizer.json of the served checkpoint, for prompts of exact length (default: the one of "
        "this checkout's model_repository)",
    )
    _add(
        group,
        "--distinct-prompts",
        "N",
        "prompts that the requests draw from; 0: each its own, and texts are not checked",
    )
    _add(group, "--max-input-tokens", "N", "cut longer prompts to this; 0: do not cut")
    group.add_argument(
        "--normal-lengths", action="store_true", help="IN/OUT are means of normal distributions"
    )
    _add(group, "--prefix-tokens", "N", "length of shared-prefix's prefix (default: 1024)")
    _add(group, "--turns", "N", "requests of one chat")
    _add(group, "--think-time", "SECONDS", "mean pause between the turns of a chat", dest="think_s")
    _add(group, "--sampling", "JSON", 'client options of every request: {"temperature": 0.7}')
    _add(
        group,
        "--replay",
        "FILE",
        'a recording, one JSON object a line: {"at": 0.5, "prompt": "Hello", "max_tokens": 16}',
    )
    _add(group, "--speed", "FACTOR", "2 replays the recording twice as fast")


def _add_faults(group: Any) -> None:
    _add(
        group,
        "--faults",
        "SHARES",
        "shares of the arrivals: cancel_storm=0.1,slow_reader=0.05,over_long=0.02",
    )
    _add(group, "--over-long-tokens", "N", "length of over_long's prompts")
    _add(
        group,
        "--stall",
        "AT:SECONDS",
        "stop the server by SIGSTOP at a second of the load, for so many seconds",
    )
    _add(group, "--stall-pid", "PID", "the process that --stall stops, with its children")


def _add_results(group: Any) -> None:
    _add(
        group,
        "--slo",
        "LIMITS",
        f"as {DEFAULT_SLOS} (default: the workload's own, else that); of one workload "
        "chat:ttft:p99<300ms; if one is broken, the exit code is 1",
        dest="slos",
        default="",
    )
    _add(
        group,
        "--max-lag",
        "SECONDS",
        "how late (p99) the client of a valid run may be (default: 0.02, or 5 %% of the reported "
        "tail where that is more)",
        dest="max_lag_s",
    )
    _add(
        group,
        "--metrics-url",
        "URL",
        "Triton's metrics (default: at the server's host, its gRPC port + 1 or HTTP port + 2)",
    )
    _add(group, "--output", "DIR", "folder of the results (default: build/out/loadtest/DATE-TIME)")
    group.add_argument(
        "--no-records", dest="records", action="store_false", help="write no records.jsonl"
    )
    group.add_argument(
        "--no-text-check",
        dest="text_check",
        action="store_false",
        help="check no text: neither against the unloaded one nor for U+FFFD",
    )
