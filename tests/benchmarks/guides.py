"""How many JSON schemas the OpenVINO runtime serves, and whether it matches the right instances.

    python -m tests.benchmarks.guides FILE.jsonl

Each line of FILE is an object with `name`, `schema` and `tests`, a list of `{"valid", "data"}`, as
in MaskBench (github.com/guidance-ai/jsonschemabench). Every schema goes through the guide prover,
as a request's guide does: within its limits, and compiled by the library. The instances, as
`json.dumps` writes them, are matched against the grammar that the library gets
(`tests/support/guide_matching.py`); `--library` asks the library itself too.

The last line is one JSON object. A schema is all right if it is accepted and every test is right.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import host.room_paths  # noqa: F401
from engines.openvino_guides import FOLDER, write_guide_files
from engines.token_table import read_token_table
from request_inputs.guide_bounds import check_bounds
from token_engine.interface import Guide
from token_engine.openvino_runtime.prover_process import (
    Disproof,
    Proof,
    ProverLimits,
    ProverLost,
    ProverProcess,
)

from tests.support.guide_matching import Recognizer, matches
from tests.support.library_matching import LibraryMatcher
from tests.support.paths import DEMO_CHECKPOINT

REASONS_SHOWN = 25


class BrokenLine(ValueError):
    """A line of the file that has no schema with tests."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the file."""

    name: str
    schema: str
    tests: tuple[tuple[bool, str], ...]  # whether it is valid, and its text


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a case."""

    case: Case
    ms: float
    refusal: str = ""  # empty if the schema is accepted
    ebnf: str = ""
    valid_missed: int = 0
    invalid_matched: int = 0

    @property
    def is_all_right(self) -> bool:
        """Whether the schema is accepted and every test is right."""
        return not (self.refusal or self.valid_missed or self.invalid_matched)


def main() -> int:
    """The command line. Returns the exit code."""
    options = _options()
    try:
        lines = options.file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        print(f"{options.file} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    cases = list(_read(lines, options.file))
    outcomes: list[Outcome] = []
    stop = threading.Event()
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            guides = options.engine / FOLDER if options.engine else _demo_guides(Path(folder))
            for outcome in _run(cases, guides, options.jobs, stop):
                outcomes.append(outcome)
                _show_progress(outcomes, len(cases))
        except KeyboardInterrupt:
            stop.set()
            code = 130
            print("\ninterrupted; the figures are those so far", file=sys.stderr)
        if options.library and not code:
            code = _ask_library(outcomes[: options.library])
    if options.misses:
        _print_misses(outcomes)
    _print_table(outcomes, bool(options.engine))
    return code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE.jsonl")
    add("--engine", type=Path, help="whose vocabulary the library compiles for (the demo's)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="provers at once (one a core)")
    add("--misses", action="store_true", help="name the schemas that are not all right")
    add("--library", type=int, default=0, metavar="N", help="ask it about N schemas' instances too")
    return parser.parse_args()


def _read(lines: list[str], file: Path) -> Iterator[Case]:
    """The cases; says which lines are broken."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _case(line)
            except BrokenLine as error:
                print(f"{file}, line {number}: {error}; it is left out", file=sys.stderr)


def _case(line: str) -> Case:
    try:
        document = json.loads(line)
        line.encode()
    except UnicodeEncodeError:
        raise BrokenLine("must be UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BrokenLine(f"must be a JSON object ({str(error)[:60]})") from None
    if not isinstance(document, dict) or "schema" not in document:
        raise BrokenLine("must be an object with 'schema'")
    tests = document.get("tests", [])
    if not isinstance(tests, list) or not all(
        isinstance(one, dict) and isinstance(one.get("valid"), bool) and "data" in one
        for one in tests
    ):
        raise BrokenLine("must have 'tests', a list of objects with 'valid' and 'data'")
    return Case(
        str(document.get("name", ""))[:80],
        _dumped(document["schema"]),
        tuple((one["valid"], _dumped(one["data"])) for one in tests),
    )


def _dumped(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value)
    return text


def _demo_guides(folder: Path) -> Path:
    """The parts of an engine that the library needs, for the demo checkpoint's vocabulary."""
    size = json.loads((DEMO_CHECKPOINT / "config.json").read_text("utf-8"))["vocab_size"]
    table = read_token_table(DEMO_CHECKPOINT / "tokenizer.json", size)
    write_guide_files(table, 0, folder)
    return folder / FOLDER


def _run(cases: list[Case], guides: Path, jobs: int, stop: threading.Event) -> Iterator[Outcome]:
    """Prove the cases, several at once; each thread has a prover."""
    local = threading.local()
    provers: list[ProverProcess] = []

    def work(case: Case) -> Outcome:
        if not hasattr(local, "prover"):
            local.prover = ProverProcess(guides, ProverLimits())
            provers.append(local.prover)
            _prove(local.prover, '{"type": "null"}', stop)  # the start must not count for a guide
        return _outcome(case, *_prove(local.prover, case.schema, stop))

    executor = ThreadPoolExecutor(max(1, jobs))
    pending: set[Future[Outcome]] = {executor.submit(work, case) for case in cases}
    try:
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)
        for prover in provers:
            prover.stop()


def _prove(
    prover: ProverProcess, schema: str, stop: threading.Event
) -> tuple[Proof | Disproof, float]:
    """The prover's answer, and how many milliseconds it took."""
    started = time.perf_counter()
    guide = Guide("json_schema", schema)
    try:
        check_bounds(guide)
    except ValueError as error:
        return Disproof(str(error).removeprefix("guided_decoding_guide ")), 0.0
    prover.begin(guide)
    while not stop.is_set():
        try:
            result = prover.result(0.2)
        except ProverLost as error:
            return Disproof(str(error)), 0.0
        if result is not None:
            return result, (time.perf_counter() - started) * 1000
    return Disproof("is not tried: interrupted"), 0.0


def _outcome(case: Case, result: Proof | Disproof, ms: float) -> Outcome:
    if isinstance(result, Disproof):
        return Outcome(case, ms, refusal=result.reason)
    grammar = Recognizer(result.ebnf)
    wrong = Counter(is_valid for is_valid, text in case.tests if matches(grammar, text) != is_valid)
    return Outcome(
        case, ms, ebnf=result.ebnf, valid_missed=wrong[True], invalid_matched=wrong[False]
    )


def _show_progress(outcomes: list[Outcome], total: int) -> None:
    if sys.stderr.isatty() or len(outcomes) % 100 == 0 or len(outcomes) == total:
        right = sum(one.is_all_right for one in outcomes)
        end = "\r" if sys.stderr.isatty() and len(outcomes) < total else "\n"
        print(f"{len(outcomes)} of {total}, {right} all right", end=end, file=sys.stderr)


def _ask_library(outcomes: list[Outcome]) -> int:
    """Whether the library matches the same instances; 1 if not."""
    cases = [(o, text) for o in outcomes if not o.refusal for _, text in o.case.tests]
    differing = 0
    with tempfile.TemporaryDirectory() as folder:
        library = LibraryMatcher([text for _, text in cases], Path(folder))
        for number, (outcome, text) in enumerate(cases):
            if library.matches(outcome.ebnf, number) != matches(Recognizer(outcome.ebnf), text):
                differing += 1
                print(f"the library differs: {outcome.case.name}: {text[:200]}")
    print(f"the library was asked about {len(cases)} instances and differs for {differing}")
    return int(differing > 0)


def _print_misses(outcomes: list[Outcome]) -> None:
    for one in sorted(outcomes, key=lambda one: one.case.name):
        if one.refusal:
            print(f"{one.case.name}: refused: {one.refusal}")
        elif not one.is_all_right:
            grammar = Recognizer(one.ebnf)
            for is_valid, text in one.case.tests:
                if matches(grammar, text) != is_valid:
                    said = "a valid instance is missed" if is_valid else "INVALID IS MATCHED"
                    print(f"{one.case.name}: {said}: {text[:300]}")


def _print_table(outcomes: list[Outcome], has_engine: bool) -> None:
    accepted = [one for one in outcomes if not one.refusal]
    times = sorted(one.ms for one in accepted) or [0.0]
    figures = {
        "schemas": len(outcomes),
        "accepted": len(accepted),
        "all_right": sum(one.is_all_right for one in outcomes),
        "valid_missed": sum(one.valid_missed for one in outcomes),
        "invalid_matched": sum(one.invalid_matched for one in outcomes),
        "refused": len(outcomes) - len(accepted),
        "compile_ms_p50": round(statistics.median(times), 1),
        "compile_ms_p99": round(times[min(len(times) - 1, len(times) * 99 // 100)], 1),
    }
    tested = Counter(is_valid for one in accepted for is_valid, _ in one.case.tests)
    median, late = figures["compile_ms_p50"], figures["compile_ms_p99"]
    share = f"{figures['all_right'] / max(1, len(outcomes)):.1%}"
    rows = {
        "schemas": f"{len(outcomes):,}",
        "accepted": f"{len(accepted):,}",
        "all tests right": f"{figures['all_right']:,} ({share})",
        "invalid matched": f"{figures['invalid_matched']} of {tested[False]:,}",
        "valid missed": f"{figures['valid_missed']} of {tested[True]:,}",
        "refused": f"{figures['refused']}",
        "compile time": f"p50 {median:g} ms, p99 {late:g} ms"
        f" ({'this engine' if has_engine else 'the demo'}'s vocabulary)",
    }
    for name, row in rows.items():
        print(f"{name:<16} {row}")
    reasons = Counter(_reason(one.refusal) for one in outcomes if one.refusal)
    for reason, count in reasons.most_common(REASONS_SHOWN):
        print(f"{count:>6} refused: {reason}")
    print(json.dumps(figures), flush=True)


def _reason(refusal: str) -> str:
    """A refusal's reason without place, value and range, to count equal ones."""
    reason = re.sub(r" at #\S*", "", refusal.split(";")[0])
    return re.sub(r"\b[0-9]+\b", "N", reason)[:100]


if __name__ == "__main__":
    sys.exit(main())
