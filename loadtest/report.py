"""`python loadtest/report.py RESULTS_DIR`: report.html of a run, finished or killed.

Where the run did not come to its summary.json, so-far.json is written: what its records tell,
without the word on the client's own health.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from report_page import report_page
from run_files import SUMMARY, TRIALS, RunFiles, RunFilesError, read_run
from whole_file import write_whole

PAGE = "report.html"
SO_FAR = "so-far.json"


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Make the page of a run's folder; raises `RunFilesError`, OSError."""
    run: RunFiles = read_run(folder)
    if output is None:
        output = (folder if folder.is_dir() else folder.parent) / PAGE
    write_whole(output, report_page(run))
    if folder.is_dir() and not (folder / SUMMARY).exists() and not list(folder.glob(TRIALS)):
        write_whole(folder / SO_FAR, json.dumps(run.summary, indent=1) + "\n")
    return output


def main() -> None:
    """The command line; exit code 2 with one sentence where there is nothing to report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("results", type=Path, help="a run's folder, its records or its summary")
    parser.add_argument("--output", type=Path, help=f"the page (RESULTS_DIR/{PAGE})")
    options = parser.parse_args()
    try:
        print(f"report: {write_report(options.results, options.output)}")
    except RunFilesError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"error: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
