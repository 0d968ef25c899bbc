"""`python loadtest/compare.py A B`: what B's figures are of A's, with 95 % confidence intervals.

A and B are runs' folders, their records.jsonl, or their summary.json (without records there are no
intervals). The method stands in bootstrap.py. `--fail-if "ttft:p99>1.1"` ends with exit code 1 if
the ratio is above the limit (`<`: below); several with commas between. Exit code 2: an input is
wrong; 3: `--fail-if` was asked of runs that are not comparable.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootstrap import METRICS, STATISTICS, Ratio, Values, compare, values_of
from run_files import RECORDS, RunFilesError, read_records, read_run

# Of two runs' headers these must be the same, or their figures are of different things.
SAME = (
    "workload", "seed", "model", "arrivals", "rate", "burstiness", "closed_loop", "concurrency",
    "sampling", "replay", "speed", "faults", "turns", "think_s", "prefix_tokens", "normal_lengths",
    "max_input_tokens", "distinct_prompts", "warmup_s", "duration_s", "slos",
)  # fmt: skip
RATES = ("output_tokens_per_s", "requests_per_s", "goodput_share")
CONDITION = re.compile(r"(\w+)(?::(mean|p[\d.]+))?([<>])([\d.]+)")
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_NOT_COMPARABLE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Run:
    """One side: its summary, and its values where there are records."""

    name: str
    summary: Mapping[str, Any]
    values: tuple[dict[str, Values], int] | None


@dataclass(frozen=True, slots=True)
class Condition:
    """Of `--fail-if`: true if the ratio of metric and statistic is beyond the limit."""

    metric: str
    statistic: str
    above: bool
    limit: float
    text: str

    def holds(self, ratio: float) -> bool:
        """Whether it is time to fail; a ratio that does not exist (nan) is."""
        return not (ratio <= self.limit if self.above else ratio >= self.limit)


def parse_conditions(text: str) -> list[Condition]:
    """Raises ValueError that names the part that is wrong and what is allowed."""
    conditions = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        match = CONDITION.fullmatch(part.replace(" ", ""))
        if match is None:
            raise ValueError(f'--fail-if is {part!r}, expected as "ttft:p99>1.1"')
        metric, statistic, sign, limit = match.groups()
        if metric not in (*METRICS, *RATES):
            allowed = ", ".join((*METRICS, *RATES))
            raise ValueError(f"--fail-if names {metric!r}, allowed is one of {allowed}")
        if (statistic is None) == (metric in METRICS):
            form = f"{metric}:p99>1.1" if metric in METRICS else f"{metric}<0.9"
            raise ValueError(f'--fail-if is {part!r}, expected as "{form}"')
        try:
            percent = float((statistic or "p50").lstrip("p") if statistic != "mean" else 50)
            value = float(limit)
        except ValueError:
            raise ValueError(f"--fail-if is {part!r}, which holds no right number") from None
        if not 0 < percent <= 100:
            raise ValueError(f"--fail-if is {part!r}, allowed percentiles are above 0 to 100")
        conditions.append(Condition(metric, statistic or "", sign == ">", value, part))
    return conditions


def load(path: Path) -> Run:
    """Raises `RunFilesError`; a run without any measured request is one, too."""
    run = read_run(path)
    if not run.summary["counts"]["scheduled"]:
        raise RunFilesError(f"{path} has no measured request to compare")
    records = path / RECORDS if path.is_dir() else path
    values = None
    if run.results is not None and run.whole and records.suffix == ".jsonl":
        values = values_of(read_records(records, lambda _: None))
    return Run(str(path), run.summary, values)


def differences(first: Run, second: Run) -> list[str]:
    """Sentences: why the two are not comparable; none if they are."""
    reasons = []
    headers = first.summary["header"], second.summary["header"]
    for name in SAME:
        one, other = (header.get(name) for header in headers)
        if one != other and None not in (one, other):
            reasons.append(f"{name} is {one!r} in {first.name} and {other!r} in {second.name}")
    for run in (first, second):
        reasons += [f"{run.name} is INVALID: {why}" for why in run.summary["validity"]["reasons"]]
    return reasons


def ratios(first: Run, second: Run, extra: Sequence[str] = ()) -> list[Ratio]:
    """Of every metric and statistic, with intervals where both have records, then of the rates."""
    names = [*STATISTICS, *(name for name in dict.fromkeys(extra) if name not in STATISTICS)]
    if first.values is not None and second.values is not None:
        found = compare(first.values, second.values, names)
    else:
        found = []
        for metric in METRICS:
            pair = [run.summary["metrics"][metric] for run in (first, second)]
            found += [
                Ratio(metric, name, pair[0][name], pair[1][name])
                for name in names
                if None not in (pair[0].get(name), pair[1].get(name))
            ]
    for name in RATES:
        one, other = (run.summary["rates"].get(name) for run in (first, second))
        if one is not None and other is not None:
            found.append(Ratio(name, "", one, other))
    return found


def table(found: Sequence[Ratio]) -> str:
    """One line a ratio; `*` where the interval leaves out 1."""
    rows = [["", "", "A", "B", "B/A", "95 % interval", ""]]
    for each in found:
        scale = 1e3 if each.metric in METRICS else 1
        unit = " ms" if each.metric in METRICS else ""
        interval = "-" if each.low is None else f"{each.low:.3f} - {each.high:.3f}"
        values = [f"{value * scale:,.2f}{unit}" for value in (each.first, each.second)]
        star = "*" if each.changed else ""
        rows.append([each.metric, each.statistic, *values, f"{each.ratio:.3f}", interval, star])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def failing(conditions: Sequence[Condition], found: Sequence[Ratio]) -> list[str]:
    """Sentences of the conditions that came true, or that nothing is known of."""
    known = {(each.metric, each.statistic): each.ratio for each in found}
    sentences = []
    for condition in conditions:
        ratio = known.get((condition.metric, condition.statistic), float("nan"))
        if condition.holds(ratio):
            told = "unknown" if ratio != ratio else f"{ratio:.3f}"
            sentences.append(f"FAILED {condition.text}: the ratio is {told}")
    return sentences


def run(arguments: argparse.Namespace) -> int:
    """The exit code; raises ValueError with one sentence."""
    conditions = parse_conditions(arguments.fail_if)
    first, second = load(arguments.first), load(arguments.second)
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path, metavar="A")
    parser.add_argument("second", type=Path, metavar="B")
    parser.add_argument("--fail-if", default="", help='as "ttft:p99>1.1,output_tokens_per_s<0.9"')
    try:
        raise SystemExit(run(parser.parse_args()))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None


if __name__ == "__main__":
    main()
