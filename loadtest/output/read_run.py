"""Reads a run's folder; of a killed run, the records it had written.

Every error is a `RunFilesError` with one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from figures.record import MEASURED, WARMUP, RequestRecord
from figures.results import RunResults
from figures.server_samples import Sample, ServerSampler

RECORDS, SUMMARY, HEADER = "records.jsonl", "summary.json", "header.json"
# --find-max-rate writes one of each per rate.
TRIALS, TRIAL_RECORDS = "summary-*.json", "records-*.jsonl"


class RunFilesError(ValueError):
    """One sentence that names the file and what is wrong with it."""


@dataclass
class RunFiles:
    """The contents of a folder. `notes`: sentences on what is missing or truncated.

    `whole`: the results cover all requests of the summary.
    """

    name: str
    summary: dict[str, Any]
    results: RunResults | None = None  # made from the records, if there are any
    records: Path | None = None  # those
    trials: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    whole: bool = True


def read_run(path: Path) -> RunFiles:
    """Read a folder, or one of its files; it must have records or a summary."""
    if not path.exists():
        raise RunFilesError(f"{path} does not exist")
    folder = path if path.is_dir() else path.parent
    records, summary = folder / RECORDS, folder / SUMMARY
    if path.is_file():
        records = path if path.suffix == ".jsonl" else folder / "no records"
        summary = path if path.suffix == ".json" else summary
        if path.suffix not in (".jsonl", ".json"):
            raise RunFilesError(f"{path} is neither .jsonl (records) nor .json (a summary)")
    trials = _trials(folder) if path.is_dir() else []
    notes: list[str] = []
    told = read_summary(summary) if summary.is_file() else None
    if told is None and not records.is_file() and path.is_dir():
        told = _shown(trials, notes)
        notes += _rates_without_summary(folder) if trials else []
        records = _trial_records(folder, told)
    results, whole = None, True
    if records.is_file():
        header = _header(told, folder / HEADER)
        results = results_of(records, header, notes, ended=told is not None)
        whole = told is None or _is_whole(records, results, told, notes)
    elif told is not None:
        notes.append(f"there is no {RECORDS}: distributions cannot be drawn")
    if told is None:
        if results is None:
            raise RunFilesError(f"{path} holds neither {RECORDS} nor {SUMMARY}")
        notes.append(
            f"there is no {SUMMARY}: the run did not end by itself, or could not write it; its "
            "figures are made from the records so far, and its client's health is not known"
        )
        told = results.summary()
        _add_server(told, folder / records.name.replace("records", "server"), notes)
    kept = None if results is None else records
    return RunFiles(str(path), told, results, kept, trials, notes, whole)


def _is_whole(
    records: Path, results: RunResults, told: Mapping[str, Any], notes: list[str]
) -> bool:
    """Whether the records cover the summary; the disk may have been full."""
    kept = sum(each.requests for each in results.journeys.values())
    of = sum(
        each["counts"]["scheduled"] + each["counts"]["warmup"]
        for each in told.get("journeys", {}).values()
    )
    if kept < of:
        notes.append(
            f"{records.name} holds {kept:,} of the run's {of:,} requests: the tables are of all of "
            "them, distributions of these alone"
        )
    return bool(kept >= of)


def _shown(trials: list[dict[str, Any]], notes: list[str]) -> dict[str, Any] | None:
    """A search's highest rate that held the SLOs, or else its lowest; None without a trial."""
    if not trials:
        return None
    held = [trial for trial in trials if trial.get("held")]
    shown = held[-1] if held else trials[0]
    which = "the highest that held the SLOs" if held else "the lowest, as none held the SLOs"
    notes.append(
        f"of {len(trials)} rates, the tables and the other plots are of "
        f"{shown['header'].get('rate', 0):.3g} requests/s, {which}"
    )
    return shown


def _rates_without_summary(folder: Path) -> list[str]:
    begun = {path.stem.partition("-")[2] for path in folder.glob("*-*.jsonl")}
    lacking = sorted(rate for rate in begun if not (folder / f"summary-{rate}.json").is_file())
    if not lacking:
        return []
    return [
        f"there is no summary of the rate {' and '.join(lacking)}: the search did not finish "
        "there, or could not write it"
    ]


def _trial_records(folder: Path, told: dict[str, Any] | None) -> Path:
    """The records of the trial shown; of a search killed in its first trial, the newest."""
    if told is not None:
        return folder / f"records-{told['header'].get('rate', 0):.3g}.jsonl"
    newest = sorted(folder.glob(TRIAL_RECORDS), key=lambda path: path.stat().st_mtime)
    return newest[-1] if newest else folder / RECORDS


def _add_server(told: dict[str, Any], path: Path, notes: list[str]) -> None:
    """Add the server's part of a run that did not end, from the samples it had written."""
    if not path.is_file():
        return
    sampler = ServerSampler("", warmup_s=float(told["header"].get("warmup_s") or 0.0))
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            sampler.add(Sample.from_json(line))
        except ValueError:
            notes.append(f"a line of {path.name} was cut off and is left out")
    metrics = told["metrics"]
    told["server"] = sampler.summary(metrics["ttft"]["mean"], metrics["send_lag"]["mean"])


def read_summary(path: Path) -> dict[str, Any]:
    """`RunResults.summary()` as it was written."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFilesError(f"{path} cannot be read as JSON: {error}") from error
    missing = [
        name
        for name in ("header", "counts", "metrics", "rates", "slos", "timeline", "validity")
        if not isinstance(document, dict) or name not in document
    ]
    if missing:
        raise RunFilesError(f"{path} is not a summary of a load test: it has no {missing[0]!r}")
    return dict(document)


def read_records(path: Path, told: Callable[[str], None]) -> Iterator[RequestRecord]:
    """Read line by line. A truncated last line is left out and reported; any other is an error."""
    bad: tuple[int, str] | None = None
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                if bad is not None:
                    raise RunFilesError(f"{path}, line {bad[0]}: {bad[1]}")
                try:
                    record = RequestRecord.from_json(line)
                except (ValueError, TypeError, IndexError) as error:
                    bad = (number, str(error))
                    if line.endswith("\n"):
                        raise RunFilesError(f"{path}, line {number}: {error}") from error
                    continue
                yield record
    except OSError as error:
        raise RunFilesError(f"{path} cannot be read: {error}") from error
    if bad is not None:
        told(f"the last line of {path.name} was cut off and is left out")


def results_of(
    path: Path, header: dict[str, Any], notes: list[str], ended: bool = True
) -> RunResults:
    """The records' results. Of a run that did not end, the window ends with its last record."""
    if not ended:
        header = _so_far(path, header)
    results = RunResults(header)
    count = 0
    for record in read_records(path, notes.append):
        results.add(record)
        count += 1
        results.header.setdefault("workload", record.workload)
    if not count:
        notes.append(f"{path.name} holds no request")
    return results


def _so_far(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """The header, with the measured window and the workloads from the records."""
    warm, end = 0.0, 0.0
    workloads: dict[str, None] = {}  # a set, in order
    for record in read_records(path, lambda _: None):
        workloads[record.workload] = None
        if record.phase == WARMUP:
            warm = max(warm, record.scheduled_at)
        elif record.phase == MEASURED and record.ended_at is not None:
            end = max(end, record.ended_at)
    warmup_s = header.get("warmup_s")
    warm = warm if warmup_s is None else warmup_s
    told = {"workload": ", ".join(workloads), "workloads": workloads} if workloads else {}
    duration_s = max(end - warm, 0.0)
    duration_s = min(header.get("duration_s") or duration_s, duration_s)
    return {**told, **header, "warmup_s": warm, "duration_s": duration_s}


def _header(summary: dict[str, Any] | None, path: Path) -> dict[str, Any]:
    if summary is not None:
        return dict(summary["header"])
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunFilesError(f"{path} cannot be read as JSON: {error}") from error


def _trials(folder: Path) -> list[dict[str, Any]]:
    trials = [read_summary(path) for path in sorted(folder.glob(TRIALS))]
    return sorted(trials, key=lambda trial: float(trial["header"].get("rate", 0)))
