"""`python loadtest/sweep.py --rates 1,2,4,8 ...`: one load test per rate, one table and page.

Ctrl-C ends the current step; the same command with the same --output continues with it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures.slo import EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_INVALID, EXIT_LEFT, EXIT_OK
from output.csv_files import summary_csv
from output.sweep_page import sweep_page, sweep_table
from output.write_run import OUTPUT, write_whole
from searches.sweep_steps import CONCURRENCIES, RATES, Sweep, SweepError, parse_steps

LOCUSTFILE = Path(__file__).resolve().parent / "locustfile.py"
PR_SET_PDEATHSIG = 1
PAGE, CSV = "sweep.html", "sweep.csv"
# Options that the sweep itself sets, or that make no sense in a step.
NOT_HERE = {
    **dict.fromkeys(
        ("--rate", "--closed-loop", "-u", "--users", "--find-max-rate", "--master", "--worker"),
        "--rates or --concurrencies is",
    ),
    "--csv": f"{CSV} is written for all steps",
}
EPILOG = """Every option of the load test works as well, and is the same for all steps
(python loadtest/locustfile.py --help lists them); of each step, -t is the time:
    python loadtest/sweep.py --rates 1,2,4,8,16 -H localhost:8001 -t 60s --workload 128/128
    python loadtest/sweep.py --concurrencies 1:8 -t 30s

Exit code: 0; 1 a request failed or was answered wrongly; 2 bad input; 3 a step is INVALID: the
client was its bottleneck; 130 interrupted. A broken SLO is a result, not an error.
"""


@dataclass(frozen=True)
class Options:
    """What to sweep and where to; `load_test` are the load test's own options."""

    by: str  # RATES or CONCURRENCIES
    steps: str  # as `parse_steps` takes them
    output: str  # "": a folder named after the time
    load_test: list[str]


def parse(arguments: Sequence[str]) -> Options:
    """The command line; raises `SweepError`."""
    parser = argparse.ArgumentParser(
        prog="python loadtest/sweep.py",
        usage="%(prog)s (--rates LIST | --concurrencies LIST) [--output DIR] [OPTION ...]",
        description="Load a running server at several rates; make one table and one plot.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    loads = parser.add_mutually_exclusive_group(required=True)
    loads.add_argument("--rates", metavar="LIST", help="requests/s: 1,2,4,8, or 1:8 or 2:16:2")
    loads.add_argument("--concurrencies", metavar="LIST", help="users of a closed loop, as 1,2,4,8")
    parser.add_argument(
        "--output", metavar="DIR", help="folder (default: build/out/loadtest/sweep-DATE-TIME)"
    )
    parser.error = _refuse  # type: ignore[method-assign, assignment]
    options, rest = parser.parse_known_args(arguments)
    for name in rest:
        instead = NOT_HERE.get(name.partition("=")[0])
        if instead:
            raise SweepError(f"{name} is not an option of a sweep: {instead}")
    by = RATES if options.rates is not None else CONCURRENCIES
    return Options(by, getattr(options, by), options.output or "", rest)


def _refuse(message: str) -> None:
    raise SweepError(message)


def run(options: Options) -> int:
    """The exit code; raises `SweepError` and OSError."""
    steps = parse_steps(options.by, options.steps)
    name = time.strftime("sweep-%Y-%m-%d-%H%M%S")
    folder = Path(options.output) if options.output else OUTPUT / name
    folder.mkdir(parents=True, exist_ok=True)
    sweep = Sweep.at(folder, options.by, options.load_test)
    sweep.write()
    runner = _Runner()
    for number, step in enumerate(steps, 1):
        if sweep.is_done(step):
            print(f"\nstep {number} of {len(steps)}, {step}: done before", flush=True)
            continue
        print(f"\nstep {number} of {len(steps)}: {step}", flush=True)
        code = runner.run(
            [*options.load_test, *step.arguments, "--output", str(folder / step.folder)]
        )
        if runner.stopped or code == EXIT_LEFT:
            left = len(steps) - sum(map(sweep.is_done, steps))
            _tell(sweep)
            print(f"interrupted: {left} of {len(steps)} steps are left; the same command with "
                  f"--output {folder} goes on")  # fmt: skip
            return EXIT_LEFT
        if code < 0:
            raise SweepError(f"the load test at {step} was ended by {signal.Signals(-code).name}")
        if code not in (EXIT_OK, EXIT_BROKEN, EXIT_INVALID):
            return code  # the load test has said why
        sweep.keep(step, code)
        _write(sweep)
    _write(sweep)
    _tell(sweep)
    return _exit_code([sweep.done[step.folder] for step in steps])


class _Runner:
    """Runs the load test; Ctrl-C and SIGTERM end it properly, and then the sweep."""

    def __init__(self) -> None:
        self.stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)

    def run(self, arguments: Sequence[str]) -> int:
        """Run it to its end; returns its exit code."""
        command = [sys.executable, str(LOCUSTFILE), "--headless", "--loglevel", "WARNING"]
        # In a session of its own, or a terminal's Ctrl-C would arrive twice, which kills it.
        self._process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        if self.stopped:
            self._process.send_signal(signal.SIGINT)
        return self._process.wait()

    def _stop(self, *_: Any) -> None:
        self.stopped = True
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)


def _end_with_parent() -> None:
    """End the load test even if the sweep is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _write(sweep: Sweep) -> None:
    write_whole(sweep.folder / PAGE, sweep_page(sweep))
    write_whole(sweep.folder / CSV, summary_csv(sweep.steps()))


def _tell(sweep: Sweep) -> None:
    print(f"\n{sweep_table(sweep)}\nresults: {os.path.relpath(sweep.folder)}/{PAGE}, {CSV}, "
          "sweep.json", flush=True)  # fmt: skip


def _exit_code(steps: Sequence[dict[str, Any]]) -> int:
    if any(not each["validity"]["valid"] for each in steps):
        return EXIT_INVALID
    failed = any(each["counts"]["failed"] + each["counts"]["incorrect"] for each in steps)
    return EXIT_BROKEN if failed else EXIT_OK


def main() -> None:
    """The command line."""
    try:
        raise SystemExit(run(parse(sys.argv[1:])))
    except SweepError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
    raise SystemExit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
