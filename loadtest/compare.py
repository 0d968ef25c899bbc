"""`python loadtest/compare.py A B`: the ratios of B's figures to A's, with 95 % intervals.

A and B are run folders, records.jsonl or summary.json (without records there are no intervals);
bootstrap.py explains the method. With `--fail-if "ttft:p99>1.1"` the exit code is 1 if the ratio is
above the limit (`<`: below). Separate several with commas; `chat:ttft:p99>1.1` is about one
workload of a mix. Exit code 2: wrong input; 3: `--fail-if`, but the runs are not comparable.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line.main import check_imports, missing_package, script_imports
from output.read_run import RECORDS, RunFilesError, read_records, read_run

with script_imports(__name__):
    from figures.bootstrap import METRICS, STATISTICS, Ratio, Sample, compare, values_by_workload

# Runs are comparable only if these entries of their headers are equal.
SAME = (
    "workload", "seed", "model", "arrivals", "rate", "burstiness", "closed_loop", "users",
    "spawn_rate", "changes", "sampling", "requests_sha256", "speed", "faults", "over_long_tokens",
    "stall", "max_in_flight", "turns", "think_s", "prefix_tokens", "normal_lengths",
    "max_input_tokens", "distinct_prompts", "warmup_s", "duration_s", "slos",
)  # fmt: skip
OF_ARRIVALS = ("arrivals", "rate", "burstiness", "speed")  # which a closed loop does not have
RATES = ("output_tokens_per_s", "requests_per_s", "goodput_share")
CONDITION = re.compile(r"(?:([^:<>]+):)??(\w+)(?::(mean|p[\d.]+))?([<>])([\d.]+)")
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_NOT_COMPARABLE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Run:
    """One side: its summary, and its values by workload ("" of all) where there are records."""

    name: str
    summary: Mapping[str, Any]
    values: dict[str, Sample] | None

    @property
    def workloads(self) -> Mapping[str, Any]:
        """Each workload's part of the summary of a mix."""
        return self.summary.get("workloads") or {}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of `--fail-if` on the ratio of one statistic of one metric."""

    workload: str
    metric: str
    statistic: str
    above: bool
    limit: float
    text: str

    def holds(self, ratio: float) -> bool:
        """Whether the ratio is beyond the limit; nan, an unknown ratio, is."""
        return not (ratio <= self.limit if self.above else ratio >= self.limit)


def parse_conditions(text: str) -> list[Condition]:
    """Raises ValueError that names the wrong part and what it must be."""
    conditions = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        match = CONDITION.fullmatch(part.replace(" ", ""))
        if match is None:
            raise ValueError(f'--fail-if must be as "ttft:p99>1.1", not {part!r}')
        workload, metric, statistic, sign, limit = match.groups()
        if metric not in (*METRICS, *RATES):
            allowed = ", ".join((*METRICS, *RATES))
            raise ValueError(f"--fail-if must name one of {allowed}, not {metric!r}")
        if (statistic is None) == (metric in METRICS):
            form = f"{metric}:p99>1.1" if metric in METRICS else f"{metric}<0.9"
            raise ValueError(f'--fail-if must be as "{form}", not {part!r}')
        try:
            percent = float((statistic or "p50").lstrip("p") if statistic != "mean" else 50)
            value = float(limit)
        except ValueError:
            raise ValueError(f"--fail-if is {part!r}, which holds no right number") from None
        if not 0 < percent <= 100:
            raise ValueError(f"--fail-if is {part!r}, the percentile must be above 0, at most 100")
        conditions.append(
            Condition(workload or "", metric, statistic or "", sign == ">", value, part)
        )
    return conditions


def load(path: Path) -> Run:
    """Raises `RunFilesError`, also if no request was measured."""
    run = read_run(path)
    if not run.summary["counts"]["scheduled"]:
        raise RunFilesError(f"{path} has no measured request to compare")
    records = path / RECORDS if path.is_dir() else path
    values = None
    if run.results is not None and run.whole and records.suffix == ".jsonl":
        names = list(run.summary.get("workloads") or {})
        values = values_by_workload(read_records(records, lambda _: None), names)
    return Run(str(path), run.summary, values)


def differences(first: Run, second: Run) -> list[str]:
    """Why the two are not comparable, one sentence each."""
    reasons = []
    headers = first.summary["header"], second.summary["header"]
    closed = all(header.get("closed_loop") for header in headers)
    for name in (each for each in SAME if not (closed and each in OF_ARRIVALS)):
        one, other = (header.get(name) for header in headers)
        if one != other and None not in (one, other):
            reasons.append(f"{name} is {one!r} in {first.name} and {other!r} in {second.name}")
    for run in (first, second):
        reasons += [f"{run.name} is INVALID: {why}" for why in run.summary["validity"]["reasons"]]
    return reasons


def ratios(first: Run, second: Run, extra: Sequence[str] = ()) -> list[Ratio]:
    """Ratios of every metric and statistic, with intervals if both have records, and of the rates.

    First for all requests, then for every workload that both mixes have.
    """
    names = [*STATISTICS, *(name for name in dict.fromkeys(extra) if name not in STATISTICS)]
    found = []
    for workload in ("", *(name for name in first.workloads if name in second.workloads)):
        parts = [run.workloads[workload] if workload else run.summary for run in (first, second)]
        if first.values is not None and second.values is not None:
            samples = first.values[workload], second.values[workload]
            found += compare(*samples, names, workload)
        else:
            found += _of_summaries(parts, names, workload)
        for name in RATES:
            one, other = (part["rates"].get(name) for part in parts)
            if one is not None and other is not None:
                found.append(Ratio(name, "", one, other, workload=workload))
    return found


def _of_summaries(
    parts: Sequence[Mapping[str, Any]], names: Sequence[str], workload: str
) -> list[Ratio]:
    found = []
    for metric in METRICS:
        one, other = (part["metrics"][metric] for part in parts)
        found += [
            Ratio(metric, name, one[name], other[name], workload=workload)
            for name in names
            if None not in (one.get(name), other.get(name))
        ]
    return found


def table(found: Sequence[Ratio]) -> str:
    """One line per ratio; `*` where the interval excludes 1."""
    rows = [["", "", "A", "B", "B/A", "95 % interval", ""]]
    for each in found:
        scale = 1e3 if each.metric in METRICS else 1
        unit = " ms" if each.metric in METRICS else ""
        interval = "-" if each.low is None else f"{each.low:.3f} - {each.high:.3f}"
        values = [f"{value * scale:,.2f}{unit}" for value in (each.first, each.second)]
        star = "*" if each.changed else ""
        of = f"{each.workload}: " if each.workload else ""
        rows.append(
            [of + each.metric, each.statistic, *values, f"{each.ratio:.3f}", interval, star]
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def failing(conditions: Sequence[Condition], found: Sequence[Ratio]) -> list[str]:
    """One sentence for each condition that is true, or whose ratio is unknown."""
    known = {(each.workload, each.metric, each.statistic): each.ratio for each in found}
    sentences = []
    for condition in conditions:
        asked = condition.workload, condition.metric, condition.statistic
        ratio = known.get(asked, float("nan"))
        if condition.holds(ratio):
            told = "unknown" if ratio != ratio else f"{ratio:.3f}"
            sentences.append(f"FAILED {condition.text}: the ratio is {told}")
    return sentences


def run(a: Path, b: Path, fail_if: str) -> int:
    """The exit code; raises ValueError with one sentence."""
    conditions = parse_conditions(fail_if)
    first, second = load(a), load(b)
    _check_workloads(conditions, first, second)
    print(f"A: {first.name}\nB: {second.name}\n")
    found = ratios(first, second, [each.statistic for each in conditions if each.statistic])
    print(table(found))
    if first.values is None or second.values is None:
        print("\nwithout all records of both runs there are no intervals")
    reasons = differences(first, second)
    for reason in reasons:
        print(f"NOT COMPARABLE: {reason}")
    if conditions and reasons:
        return EXIT_NOT_COMPARABLE
    sentences = failing(conditions, found)
    for sentence in sentences:
        print(sentence)
    return EXIT_FAILED if sentences else 0


def _check_workloads(conditions: Sequence[Condition], first: Run, second: Run) -> None:
    shared = [name for name in first.workloads if name in second.workloads]
    for condition in conditions:
        if condition.workload and condition.workload not in shared:
            raise ValueError(
                f"--fail-if must name a workload of both runs ({', '.join(shared) or 'none is'}), "
                f"not {condition.workload!r}"
            )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path, metavar="A")
    parser.add_argument("second", type=Path, metavar="B")
    parser.add_argument("--fail-if", default="", help='as "ttft:p99>1.1,output_tokens_per_s<0.9"')
    try:
        options = parser.parse_args()
        check_imports()
        raise SystemExit(run(options.first, options.second, options.fail_if))
    except ModuleNotFoundError as error:
        problem = missing_package(error)
    except (ValueError, OSError) as error:
        problem = str(error)
    print(f"error: {problem}", file=sys.stderr)
    raise SystemExit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
