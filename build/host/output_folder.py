"""An output folder that is there whole or not at all: written aside, renamed at the very end.

The folder being written is called `OUTPUT.partial-XXXX` and holds a file lock for as long as its
writer lives. A folder that a killed run left behind is unlocked, and the next run removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from host.console import BuildError, say

SPARE_BYTES = 64 * 2**20  # for small files and the file system's own bookkeeping


@contextlib.contextmanager
def written_whole(output: Path, marker: str, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty folder that becomes `output` when the block ends without an exception.

    An existing `output` is replaced if it is empty or holds the file `marker`, which says that an
    earlier run wrote it; any other folder is left alone with a `BuildError`, as is a disk with less
    than `needed_bytes` free.
    """
    output = output.absolute()
    _check_replaceable(output, marker)
    output.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(output)
    _check_space(output, needed_bytes)
    partial = Path(tempfile.mkdtemp(prefix=f"{output.name}.partial-", dir=output.parent))
    lock = _locked(partial)
    assert lock is not None  # the folder is new and its name is unique
    try:
        partial.chmod(0o755)
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        _replace(partial, output)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BuildError(
                f"the disk is full: {output} could not be written whole ({error.strerror}); "
                f"free space in {output.parent}, or give another --output"
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _check_replaceable(output: Path, marker: str) -> None:
    if output.is_dir():
        if any(output.iterdir()) and not (output / marker).exists():
            raise BuildError(f"{output} is not empty and holds no {marker}; give another --output")
    elif output.exists() or output.is_symlink():
        raise BuildError(f"{output} is no folder; give another --output")


def _check_space(output: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(output.parent).free
    needed = needed_bytes + SPARE_BYTES if needed_bytes else 0
    if free < needed:
        raise BuildError(
            f"the disk is full: {output} needs {needed / 1e9:.2f} GB and {output.parent} has "
            f"{free / 1e9:.2f} GB free; free space there or give another --output"
        )


def _remove_stale(output: Path) -> None:
    for folder in output.parent.glob(f"{output.name}.partial-*"):
        lock = _locked(folder)
        if lock is not None:
            say(f"removing {folder.name}, left by an interrupted run")
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """An exclusive lock's descriptor, or None while another process holds it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _replace(partial: Path, output: Path) -> None:
    """Two renames, as a folder that is not empty cannot be renamed over; killed between them, the
    next run finds no output and builds it again."""
    if output.exists():
        old = Path(tempfile.mkdtemp(prefix=f"{output.name}.partial-", dir=output.parent))
        output.rename(old)
        partial.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(output)
    _sync(output.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
