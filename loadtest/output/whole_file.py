"""A file that is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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
