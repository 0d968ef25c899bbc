"""The folder of a run: records.jsonl as it goes, summary.json at the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

OUTPUT = Path(__file__).resolve().parent.parent / "build" / "out" / "loadtest"


class RunOutput:
    """Raises OSError where the folder cannot be written."""

    def __init__(self, folder: str, records: bool) -> None:
        self.folder = Path(folder) if folder else OUTPUT / time.strftime("%Y-%m-%d-%H%M%S")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._records: TextIO | None = None
        if records:
            # Line by line and flushed: what came before a kill can be read.
            self._records = (self.folder / "records.jsonl").open("w", encoding="utf-8")

    def write_records(self, lines: str) -> None:
        """Lines of `RequestRecord.to_json`, "" for none."""
        if self._records is not None and lines:
            self._records.write(lines + "\n")
            self._records.flush()

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Whole or not at all."""
        aside = self.folder / f"{name}.partial"
        aside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        aside.replace(self.folder / name)

    def close(self) -> None:
        """The last record is written."""
        if self._records is not None:
            self._records.close()
            self._records = None

    def __str__(self) -> str:
        return os.path.relpath(self.folder)
