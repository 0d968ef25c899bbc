"""One file of a repository into a folder: resumed, held against the hub's hash, then named.

What has arrived of NAME lies in NAME.HASH.part: bytes of another commit's file of that name are
never taken for its own.
"""

from __future__ import annotations

from pathlib import Path

from host.console import BuildError, Phase, say

from checkpoints.fetch_folder import sync
from checkpoints.hub import HubFiles, download
from checkpoints.manifest import Advance, StatedFile, check_file


def fetch_shard(folder: Path, source: HubFiles, name: str, label: str) -> StatedFile:
    """Fetch a large file, with a phase of its own for its hash."""
    size = source.files[name].size or 0
    with Phase(label, size) as fetching:
        resumed = _receive(folder, source, name, fetching.advance)
    with Phase(f"checking {name}", size) as checking:
        return _accept(folder, source, name, resumed, checking.advance)


def fetch_file(folder: Path, source: HubFiles, name: str, advance: Advance) -> StatedFile:
    """Fetch a file and check it; raises `BuildError`."""
    resumed = _receive(folder, source, name, advance)
    return _accept(folder, source, name, resumed, lambda _: None)


def bytes_there(folder: Path, source: HubFiles, name: str) -> int:
    """How much of a file earlier runs have brought."""
    partial = _partial(folder, source, name)
    size = partial.stat().st_size if partial.exists() else 0
    return size if size <= (source.files[name].size or 0) else 0


def _partial(folder: Path, source: HubFiles, name: str) -> Path:
    return folder / f"{name}.{source.files[name].hash[:16]}.part"


def _receive(folder: Path, source: HubFiles, name: str, advance: Advance) -> bool:
    """Fetch what the partial file lacks; returns whether it had something already."""
    partial = _partial(folder, source, name)
    partial.parent.mkdir(exist_ok=True)
    begin = bytes_there(folder, source, name)
    if begin:
        say(f"{name}: going on at byte {begin:,}")
    else:
        partial.unlink(missing_ok=True)  # it may be longer than the file
    download(source, name, partial, advance)
    return bool(begin)


def _accept(
    folder: Path, source: HubFiles, name: str, resumed: bool, advance: Advance
) -> StatedFile:
    """Give a file that arrived its name if it is what the hub states; raise if it is not.

    A resumed one is fetched again from its first byte before it is given up: a machine that lost
    its power may have kept the file's size without all of its bytes.
    """
    partial = _partial(folder, source, name)
    try:
        sha256 = check_file(partial, source.files[name], "the hub", advance)
    except BuildError as error:
        partial.unlink()
        if not resumed:
            raise BuildError(
                f"{error}; the damaged file was removed, run the same command again"
            ) from error
        say(f"{error}; fetching it from the start")
        size = source.files[name].size or 0
        return fetch_shard(folder, source, name, f"fetching {name}, {size:,} bytes")
    sync(partial)
    partial.replace(folder / name)
    return StatedFile(source.files[name].size, sha256)
