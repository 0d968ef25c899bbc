"""An output folder, or file, that appears whole or not at all: written aside, renamed at the end.

It is written as `OUTPUT.partial-XXXX`, or as `OUTPUT.download` if a later run may continue it. Its
writer holds a file lock on it as long as it lives. A killed run leaves a `.partial-XXXX` without a
lock, which the next run removes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
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
    remove_stale(output)
    _check_space(output, needed_bytes)
    partial = Path(tempfile.mkdtemp(prefix=f"{output.name}.partial-", dir=output.parent))
    lock = _locked(partial)
    assert lock is not None  # the folder is new and its name is unique
    try:
        partial.chmod(0o755)
        yield partial
        for path in [*partial.rglob("*"), partial]:
            sync(path)
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


def resumable_folder(output: Path) -> Path:
    """Where `resumable_output` writes `output`."""
    return output.with_name(f"{output.name}.download")


@contextlib.contextmanager
def resumable_output(output: Path, marker: str, own_files: Collection[str]) -> Iterator[Path]:
    """Yield `OUTPUT.download` with what an earlier run left in it; it becomes `output` when the
    block ends without an exception, and stays where it is otherwise.

    `marker` as in `written_whole`. A folder that is not empty and holds none of `own_files` was not
    written by an earlier run: it is left alone with a `BuildError`, as is one that another run
    works in.
    """
    _check_replaceable(output, marker)
    remove_stale(output)
    folder = resumable_folder(output)
    lock = _make_locked(folder)
    try:
        if any(folder.iterdir()) and not any((folder / name).exists() for name in own_files):
            raise BuildError(
                f"{folder} is not empty and no earlier run wrote it; move it away or give "
                "another --output"
            )
        yield folder
        sync(folder)
        _replace(folder, output)
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing has arrived
        raise
    finally:
        os.close(lock)


def _make_locked(folder: Path) -> int:
    """Make the folder if need be; returns its lock's descriptor."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder)
        if lock is None and folder.exists():
            raise BuildError(
                f"another run is writing {folder}; wait for it, or give another --output"
            )
        if lock is None:
            continue  # the other run ended meanwhile, and renamed or removed the folder
        if folder.exists() and os.path.samestat(os.fstat(lock), folder.stat()):
            return lock
        os.close(lock)


def _check_replaceable(output: Path, marker: str) -> None:
    if output.is_dir():
        if any(output.iterdir()) and not (output / marker).exists():
            raise BuildError(f"{output} is not empty and holds no {marker}; give another --output")
    elif output.exists() or output.is_symlink():
        raise BuildError(f"{output} is not a folder; give another --output")


def _check_space(output: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(output.parent).free
    needed = needed_bytes + SPARE_BYTES if needed_bytes else 0
    if free < needed:
        raise BuildError(
            f"the disk is full: {output} needs {needed / 1e9:.2f} GB and {output.parent} has "
            f"{free / 1e9:.2f} GB free; free space there or give another --output"
        )


def remove_stale(output: Path) -> None:
    """Remove what killed runs left beside `output`."""
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
    sync(output.parent)


def write_whole_file(path: Path, text: str) -> None:
    """Write a small file; a reader finds the old one or the new one, even if this is killed."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when the disk has the file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
