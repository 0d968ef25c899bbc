"""The folder of a run: records.jsonl and server.jsonl as it goes, summary.json at the end.

Of a search for the highest rate each has the rate in its name: `records-8.jsonl`.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from server_sampler import Sample

WRITTEN = re.compile(
    r"(records|server)(-[\d.e+]+)?\.jsonl|summary(-[\d.e+]+)?\.json"
    r"|header\.json|so-far\.json|report\.html"
)
OUTPUT = Path(__file__).resolve().parent.parent / "build" / "out" / "loadtest"


class RunOutput:
    """Raises OSError where the folder cannot be written."""

    def __init__(self, folder: str, records: bool) -> None:
        self.folder = Path(folder) if folder else OUTPUT / time.strftime("%Y-%m-%d-%H%M%S")
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():  # an earlier run's would be taken for this one's
            if WRITTEN.fullmatch(path.name):
                path.unlink()
        self._with_records = records
        self._records: TextIO | None = None
        self._server: TextIO | None = None

    def begin(self, suffix: str) -> None:
        """A round begins: its files, from nothing. `suffix` as "-8", or "" of a single round."""
        self.close()
        # Line by line and flushed: what came before a kill can be read.
        if self._with_records:
            self._records = self._open(f"records{suffix}.jsonl")
        self._server = self._open(f"server{suffix}.jsonl")

    def write_records(self, lines: str) -> None:
        """Lines of `RequestRecord.to_json`, "" for none."""
        if self._records is not None and lines:
            self._records.write(lines + "\n")
            self._records.flush()

    def write_sample(self, sample: Sample) -> None:
        """Of the server."""
        if self._server is not None:
            self._server.write(sample.to_json() + "\n")
            self._server.flush()

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Whole or not at all."""
        aside = self.folder / f"{name}.partial"
        aside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        aside.replace(self.folder / name)

    def close(self) -> None:
        """The last line is written."""
        for file in (self._records, self._server):
            if file is not None:
                file.close()
        self._records = self._server = None

    def _open(self, name: str) -> TextIO:
        return (self.folder / name).open("w", encoding="utf-8")

    def __str__(self) -> str:
        return os.path.relpath(self.folder)
