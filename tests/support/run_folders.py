"""Folders of load-test runs with made-up requests, for the tests of reports and comparisons."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from figures.record import DRAINED, MEASURED, WARMUP, RequestRecord
from figures.results import RunResults
from figures.validity import WorkerHealth

HEADER: dict[str, Any] = {
    "url": "127.0.0.1:8001",
    "model": "ensemble",
    "workload": "128/128",
    "arrivals": "poisson",
    "rate": 10.0,
    "seed": 1,
    "users": 1,
    "requests_sha256": "a",
    "changes": [],
    "started_unix": 1_795_593_747.0,
    "warmup_s": 2.0,
    "duration_s": 10.0,
    "slos": ["ttft:p99<2000ms"],
}


def made_up(count: int, seed: int = 1, ttft_s: float = 0.1, failed: int = 0) -> list[RequestRecord]:
    """`count` requests, ten a second; the first `failed` measured ones failed."""
    generator = random.Random(seed)
    records = []
    for number in range(count):
        due = number / 10
        first = due + ttft_s * generator.lognormvariate(0, 0.3)
        gaps = tuple((0.02 * generator.lognormvariate(0, 0.2), 1) for _ in range(15))
        end = first + sum(seconds for seconds, _ in gaps)
        phase = WARMUP if due < 2 else MEASURED if end < 12 else DRAINED
        fails = 20 <= number < 20 + failed
        records.append(
            RequestRecord(
                request_id=f"{seed}-1-{number}",
                workload="128/128",
                phase=phase,
                scheduled_at=due,
                sent_at=due + 0.001,
                first_token_at=None if fails else first,
                last_token_at=None if fails else end,
                ended_at=due + 0.01 if fails else end,
                gaps=() if fails else gaps,
                num_input_tokens=128,
                num_output_tokens=0 if fails else 16,
                error_class="UNAVAILABLE" if fails else "",
                error="the queue is <full>" if fails else "",
            )
        )
    return records


def write_run(
    folder: Path,
    records: list[RequestRecord],
    *,
    finished: bool = True,
    cpu: float = 0.3,
    **header: Any,
) -> Path:
    """records.jsonl and, of a finished run, summary.json."""
    folder.mkdir(parents=True)
    results = RunResults({**HEADER, **header})
    for record in records:
        results.add(record)
    health = WorkerHealth()
    health.sample(cpu, 1.0, 100)
    results.workers["0"] = health
    lines = "".join(record.to_json() + "\n" for record in records)
    (folder / "records.jsonl").write_text(lines, encoding="utf-8")
    if finished:
        (folder / "summary.json").write_text(json.dumps(results.summary()), encoding="utf-8")
    return folder
