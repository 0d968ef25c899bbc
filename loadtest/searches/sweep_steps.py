"""The steps of a sweep, and their results in sweep.json.

sweep.json is rewritten after every step and lists the steps that are done, so that an interrupted
sweep can continue.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from output.read_run import SUMMARY, RunFilesError, read_summary
from output.write_run import write_whole

SWEEP = "sweep.json"
RATES, CONCURRENCIES = "rates", "concurrencies"
MOST_STEPS = 200
# The parts of a step's summary that sweep.json keeps; the step's folder has all of it.
KEPT = ("header", "counts", "rates", "metrics", "slos", "validity", "workloads")


class SweepError(ValueError):
    """One sentence that names what is wrong and what it must be."""


@dataclass(frozen=True, slots=True)
class Step:
    """One load: requests/s, or users of a closed loop."""

    by: str  # RATES or CONCURRENCIES
    value: float

    @property
    def folder(self) -> str:
        """Inside the sweep's."""
        return f"{'rate' if self.by == RATES else 'users'}-{self.value:g}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """The load test's arguments for this step."""
        value = f"{self.value:.17g}"
        return ("--rate", value) if self.by == RATES else ("--closed-loop", "-u", value)

    def __str__(self) -> str:
        if self.by == RATES:
            return f"{self.value:g} requests/s"
        return f"{self.value:g} user{'' if self.value == 1 else 's'}"


def parse_steps(by: str, text: str) -> list[Step]:
    """From `1,2,4,8`, `START:END` or `START:END:STEP`, ends included; raises `SweepError`.

    >>> [step.value for step in parse_steps("rates", "0.5,2:4,10:20:5")]
    [0.5, 2.0, 3.0, 4.0, 10.0, 15.0, 20.0]
    """
    values: list[float] = []
    for part in text.split(","):
        values += _range(by, part) if ":" in part else [_value(by, part)]
        if len(values) > MOST_STEPS:
            raise SweepError(f"--{by} is {text!r}, which are more than {MOST_STEPS} steps")
    steps = [Step(by, value) for value in dict.fromkeys(values)]
    if len({step.folder for step in steps}) < len(steps):
        raise SweepError(f"--{by} is {text!r}, whose steps must differ in their first 6 digits")
    return steps


def _range(by: str, text: str) -> list[float]:
    ends = text.split(":")
    if len(ends) > 3:
        raise SweepError(f"--{by} must be as 1:8 or 1:8:2, not {text!r}")
    start, end, *rest = (_value(by, each) for each in ends)
    step = rest[0] if rest else 1.0
    count = math.floor((end - start) / step + 1e-9) + 1
    if not 1 <= count <= MOST_STEPS:
        raise SweepError(f"--{by} must be 1 to {MOST_STEPS} steps, not {text!r}")
    return [round(start + step * number, 12) for number in range(count)]


def _value(by: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    whole = by == CONCURRENCIES
    if not 0 < value < math.inf or (whole and value != int(value)):
        kind = "whole numbers from 1 on" if whole else "numbers above 0"
        raise SweepError(f"--{by} must be {kind}, as 1,2,4,8, not {text.strip()!r}")
    return value


@dataclass
class Sweep:
    """A sweep's folder. `done`: the results of each step that ended by itself, by its folder."""

    folder: Path
    by: str
    arguments: Sequence[str]  # of the load test, the same for all steps
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path, by: str, arguments: Sequence[str]) -> Sweep:
        """A new sweep, or the one in the folder; raises `SweepError` if its options differ."""
        sweep = cls(folder, by, list(arguments))
        path = folder / SWEEP
        if not path.exists():
            return sweep
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            same = (told["by"], told["arguments"]) == (by, sweep.arguments)
            sweep.done = {each["folder"]: each for each in told["steps"]}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SweepError(f"{path} cannot be read as a sweep: {error}") from error
        if not same:
            asked = " ".join(told["arguments"]) or "none"
            raise SweepError(
                f"{folder} holds a sweep of --{told['by']} with other options ({asked}); choose "
                "another --output"
            )
        return sweep

    def is_done(self, step: Step) -> bool:
        """Whether the step's results are there."""
        return step.folder in self.done and (self.folder / step.folder / SUMMARY).is_file()

    def keep(self, step: Step, code: int) -> None:
        """Keep a step that ended by itself; raises `SweepError` if it left no results."""
        try:
            summary = read_summary(self.folder / step.folder / SUMMARY)
        except RunFilesError as error:
            raise SweepError(str(error)) from error
        if step.by == CONCURRENCIES:
            summary["header"] |= {"users": int(step.value)}
        kept = {name: summary[name] for name in KEPT if name in summary}
        self.done[step.folder] = {
            "value": step.value, "folder": step.folder, "exit_code": code, **kept
        }  # fmt: skip
        self.write()

    def write(self) -> None:
        """sweep.json, whole or not at all."""
        document = {"by": self.by, "arguments": list(self.arguments), "steps": self.steps()}
        write_whole(self.folder / SWEEP, json.dumps(document, indent=1) + "\n")

    def steps(self) -> list[Mapping[str, Any]]:
        """The results of the steps, by rising load."""
        return sorted(self.done.values(), key=lambda each: float(each["value"]))
