"""The folder of a run: records.jsonl and server.jsonl as it goes, summary.json and .csv at the end.

In a search for the highest rate, each has the rate in its name: `records-8.jsonl`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from figures.server_samples import Sample

from output.csv_files import summary_csv
from output.terminal import complain

WRITTEN = re.compile(
    r"((records|server)(-[\d.e+]+)?\.jsonl|summary(-[\d.e+]+)?\.(json|csv)|records\.csv"
    r"|header\.json|so-far\.json|report\.html)(\.partial-\w+)?"
)
OUTPUT = Path(__file__).resolve().parents[2] / "build" / "out" / "loadtest"
MOST_NAMED = 4
PROBE, PROBE_BYTES = "header.json.partial-probe", 4096


@dataclass(frozen=True, slots=True)
class _Lines:
    """A file that grows line by line; every line is flushed."""

    name: str
    file: BinaryIO


class RunOutput:
    """The files of one run; raises OSError if the folder cannot be written at the start.

    Files that cannot be written later (a full disk) are named in `not_whole`, and `tell` gets a
    sentence on the first; the run goes on, with its figures in memory. Lines already written stay;
    the last may be truncated.
    """

    def __init__(
        self, folder: str, records: bool, tell: Callable[[str], object] = complain
    ) -> None:
        self.folder = Path(folder) if folder else OUTPUT / time.strftime("%Y-%m-%d-%H%M%S")
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():  # an earlier run's files would pass for this one's
            if WRITTEN.fullmatch(path.name):
                path.unlink()
        _probe(self.folder / PROBE)
        self.not_whole: list[str] = []  # names of files
        self._tell = tell
        self._with_records = records
        self._records: _Lines | None = None
        self._server: _Lines | None = None

    def begin(self, suffix: str) -> None:
        """Start a round's files. `suffix`: as "-8", or "" for a single round."""
        self.close()
        # Flushed line by line, so that a killed run can be read.
        if self._with_records:
            self._records = self._open(f"records{suffix}.jsonl")
        self._server = self._open(f"server{suffix}.jsonl")

    def write_records(self, lines: str) -> None:
        """Lines of `RequestRecord.to_json`, "" for none."""
        if self._records is not None and lines and not self._append(self._records, lines):
            self._records = None

    def write_sample(self, sample: Sample) -> None:
        """Append a sample of the server."""
        if self._server is not None and not self._append(self._server, sample.to_json()):
            self._server = None

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Whole or not at all."""
        self.write_text(name, json.dumps(document, indent=1) + "\n")

    def write_summary(self, summary: Mapping[str, Any], suffix: str = "") -> None:
        """As JSON and as CSV."""
        self.write_json(f"summary{suffix}.json", summary)
        self.write_text(f"summary{suffix}.csv", summary_csv([summary]))

    def write_text(self, name: str, text: str) -> None:
        """Whole or not at all."""
        try:
            write_whole(self.folder / name, text)
        except OSError as error:
            with contextlib.suppress(OSError):  # an earlier round's file would pass for this one's
                (self.folder / name).unlink(missing_ok=True)
            self.lost(name, error)

    def lost(self, name: str, error: OSError) -> None:
        """Note a file that could not be written; only the first is announced."""
        if not self.not_whole:
            reason = error.strerror or str(error)
            path = self.folder / name
            self._tell(f"error: {path} cannot be written: {reason}; the run goes on in memory")
        if name not in self.not_whole:
            self.not_whole.append(name)

    def close(self) -> None:
        """Close the files that grow."""
        for lines in (self._records, self._server):
            if lines is not None:
                try:
                    lines.file.close()
                except OSError as error:  # some file systems report lost writes only now
                    self.lost(lines.name, error)
        self._records = self._server = None

    def told(self, *names: str) -> str:
        """The line that says where the results are, and which files are not whole."""
        there = ", ".join(name for name in names if name not in self.not_whole)
        line = f"results: {self}/{there}".rstrip("/")
        if not self.not_whole:
            return line
        lost = self.not_whole[:MOST_NAMED]
        more = len(self.not_whole) - len(lost)
        return f"{line} (not whole: {', '.join(lost)}{f' and {more} more' if more else ''})"

    def _open(self, name: str) -> _Lines | None:
        try:
            return _Lines(name, (self.folder / name).open("wb"))
        except OSError as error:
            self.lost(name, error)
            return None

    def _append(self, lines: _Lines, text: str) -> bool:
        """Whether the text was written; if not, close the file: no line follows a broken one."""
        try:
            lines.file.write(f"{text}\n".encode())
            lines.file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                lines.file.close()
            self.lost(lines.name, error)
            return False
        return True

    def __str__(self) -> str:
        return os.path.relpath(self.folder)


def _probe(path: Path) -> None:
    """Find a full disk before the load rather than after it."""
    try:
        path.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        error.filename = str(path.parent)  # a full disk's own names none
        raise
    finally:
        path.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """The file is there with all of the text, or as it was before.

    Raises OSError whose `filename` is the path: a full disk's own names none.
    """
    try:
        _write(path, text)
    except OSError as error:
        error.filename = str(path)
        raise


def _write(path: Path, text: str) -> None:
    descriptor, aside = tempfile.mkstemp(prefix=f"{path.name}.partial-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
