"""`python loadtest/report.py RESULTS_DIR`: make report.html of a run, finished or killed.

`--csv` makes summary.csv and records.csv (a row per request) instead; for a search for the highest
rate, summary.csv has a row per rate. For a run that was killed before its summary.json, so-far.json
holds what its records say, without the client's own health.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

from command_line.main import missing_package
from figures.slo import EXIT_BAD_INPUT
from output.csv_files import RECORDS_CSV, SUMMARY_CSV, summary_csv, write_records
from output.page import report_page
from output.read_run import SUMMARY, TRIALS, RunFiles, RunFilesError, read_records, read_run
from output.write_run import write_whole

PAGE = "report.html"
SO_FAR = "so-far.json"


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Make the page of a run's folder; raises `RunFilesError`, OSError."""
    run: RunFiles = read_run(folder)
    if folder.is_dir() and run.trials:
        write_whole(folder / SUMMARY_CSV, summary_csv(run.trials))
    if output is None:
        output = (folder if folder.is_dir() else folder.parent) / PAGE
    write_whole(output, report_page(run))
    if folder.is_dir() and not (folder / SUMMARY).exists() and not list(folder.glob(TRIALS)):
        write_whole(folder / SO_FAR, json.dumps(run.summary, indent=1) + "\n")
    return output


def write_csv(folder: Path) -> list[Path]:
    """Make summary.csv and, where there are records, records.csv, both whole or not at all.

    Raises `RunFilesError`, OSError.
    """
    run = read_run(folder)
    place = folder if folder.is_dir() else folder.parent
    written = [place / SUMMARY_CSV]
    write_whole(written[0], summary_csv(run.trials or [run.summary]))
    if run.records is not None:
        text = io.StringIO(newline="")
        write_records(read_records(run.records, lambda _: None), text)
        written.append(place / RECORDS_CSV)
        write_whole(written[1], text.getvalue())
    return written


def main() -> None:
    """The command line; exit code 2 with one sentence where there is nothing to report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("results", type=Path, help="a run's folder, its records or its summary")
    parser.add_argument("--output", type=Path, help=f"the page (RESULTS_DIR/{PAGE})")
    parser.add_argument(
        "--csv", action="store_true", help=f"make {SUMMARY_CSV} and {RECORDS_CSV} instead"
    )
    options = parser.parse_args()
    try:
        if options.csv:
            print(f"CSV: {', '.join(map(str, write_csv(options.results)))}")
            return
        print(f"report: {write_report(options.results, options.output)}")
        return
    except RunFilesError as error:
        problem = str(error)
    except ModuleNotFoundError as error:
        problem = missing_package(error)
    except OSError as error:
        problem = f"{error.filename} cannot be written: {error.strerror}"
    print(f"error: {problem}", file=sys.stderr)
    raise SystemExit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
