"""A checkpoint on this machine: checked in place, or linked or copied into a folder.

Its files are compared with the first of these that exists: the list of SHA-256 that the caller
gives, the manifest of an earlier fetch, the names of the blobs in a Hugging Face cache (which are
hashes). Without any of them only the content is checked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from host.console import BuildError, Phase, say
from host.output_folder import written_whole

from checkpoints.check import check_content, check_layout
from checkpoints.manifest import (
    CHUNK_BYTES,
    MANIFEST,
    Advance,
    Manifest,
    StatedFile,
    check_file,
    is_small_file,
    read_manifest,
    shard_names,
    small_files,
    write_manifest,
)

LIST_LINE = re.compile(r"([0-9a-fA-F]{64})\s[\s*](?:\./)?(\S.*)")  # as sha256sum prints it
CACHE_SNAPSHOT = re.compile(r"models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})$")
NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Statement:
    """The sizes and hashes that somebody states for a folder's files."""

    source: str = ""  # who; "" for nobody
    files: dict[str, StatedFile] = field(default_factory=dict)
    repo: str = ""
    commit: str = ""


def check_in_place(directory: Path, sha256_list: Path | None = None) -> None:
    """Check a folder and print what it is; raises `BuildError`. Changes nothing."""
    statement = _statement(directory, sha256_list)
    names = _names(directory, statement)
    check_layout(directory)
    if statement.source:
        _hashed(directory, names, statement)
    _print_summary(directory, names, statement)


def import_from(directory: Path, output: Path, sha256_list: Path | None = None) -> None:
    """Check a folder and hard link or copy its files into `output`; raises `BuildError`."""
    if output.exists() and directory.exists() and output.samefile(directory):
        raise BuildError(f"--from and --output are both {directory}; give --check {directory}")
    statement = _statement(directory, sha256_list)
    names = _names(directory, statement)
    check_layout(directory)
    output.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(output, MANIFEST, _bytes_to_copy(directory, names, output)) as folder:
        files = _hashed(directory, names, statement)
        _print_summary(directory, names, statement)
        total = sum(file.size or 0 for file in files.values())
        with Phase(f"importing {len(files)} files, {total:,} bytes", total) as phase:
            linked = sum(
                _link_or_copy(directory / name, folder / name, files[name], phase.advance)
                for name in names
            )
        verified_by = statement.source or "its layout and values"
        write_manifest(folder, Manifest(statement.repo, statement.commit, verified_by, files))
    say(f"{output} is ready: {linked} files linked, {len(files) - linked} copied")


def _bytes_to_copy(directory: Path, names: list[str], output: Path) -> int:
    """Bytes of the files on another disk than `output`, which cannot be linked."""
    disk = output.absolute().parent.stat().st_dev
    facts = [(directory / name).stat() for name in names]
    return sum(fact.st_size for fact in facts if fact.st_dev != disk)


def _print_summary(directory: Path, names: list[str], statement: Statement) -> None:
    summary = check_content(directory)
    if not statement.source:
        proof = "only its layout and values were checked: nothing states its files' hashes"
    else:
        origin = f" ({statement.repo} at {statement.commit})" if statement.commit else ""
        stated = sum(name in statement.files for name in names)
        proof = f"{stated} of {len(names)} files are what {statement.source}{origin} states"
    say(f"{directory} is whole: {summary}; {proof}")


def _names(directory: Path, statement: Statement) -> list[str]:
    if not directory.is_dir():
        raise BuildError(f"{directory} is not a folder; give one with an NVFP4 checkpoint")
    names = [*small_files(directory), *shard_names(directory)]
    for name in [*names, *filter(is_small_file, statement.files)]:
        if not (directory / name).is_file():
            dangling = (directory / name).is_symlink()
            what = "is a link to nothing" if dangling else "does not exist"
            raise BuildError(f"{directory / name} {what}; fetch the checkpoint again")
    return names


def _hashed(directory: Path, names: list[str], statement: Statement) -> dict[str, StatedFile]:
    sizes = {name: (directory / name).stat().st_size for name in names}
    total = sum(sizes.values())
    files = {}
    with Phase(f"hashing {len(names)} files, {total:,} bytes", total) as phase:
        for name in names:
            stated = statement.files.get(name, StatedFile())
            if statement.source and name.endswith(".safetensors") and not stated.hash:
                raise BuildError(
                    f"{statement.source} has no hash of {name}; add its line, or check the "
                    "folder without that list"
                )
            try:
                sha256 = check_file(directory / name, stated, statement.source, phase.advance)
            except BuildError as error:
                raise BuildError(f"{error}; delete the file and fetch it again") from error
            files[name] = StatedFile(sizes[name], sha256)
    return files


def _statement(directory: Path, sha256_list: Path | None) -> Statement:
    if sha256_list is not None:
        return Statement(str(sha256_list), _read_list(sha256_list))
    manifest = read_manifest(directory)
    if manifest is not None:
        return Statement(MANIFEST, manifest.files, manifest.repo, manifest.commit)
    return _cache_statement(directory)


def _read_list(path: Path) -> dict[str, StatedFile]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise BuildError(f"--sha256 {path} cannot be read ({error})") from error
    files = {}
    for number, line in enumerate(lines, 1):
        found = LIST_LINE.fullmatch(line.rstrip())
        if found:
            files[found[2]] = StatedFile(sha256=found[1].lower())
        elif line.strip() and not line.startswith("#"):
            raise BuildError(
                f"{path}:{number} must be '<64 hex digits>  <file name>', as sha256sum prints it, "
                f"not {line[:80]!r}"
            )
    return files


def _cache_statement(directory: Path) -> Statement:
    """A snapshot in a Hugging Face cache links to `../../blobs/HASH`: the SHA-256 of a large file,
    git's SHA-1 of a small one."""
    origin = CACHE_SNAPSHOT.search(directory.absolute().as_posix())
    if origin is None:
        return Statement()
    files = {}
    names = {path.name for path in directory.iterdir()} | set(small_files(directory))
    for name in names:
        path = directory / name
        blob = Path(os.readlink(path)) if path.is_symlink() else Path()
        if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
            files[name] = StatedFile(sha256=blob.name)
        elif blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{40}", blob.name):
            files[name] = StatedFile(blob_sha1=blob.name)
    source = "the Hugging Face cache" if files else ""
    return Statement(source, files, f"{origin[1]}/{origin[2]}", origin[3])


def _link_or_copy(source: Path, target: Path, stated: StatedFile, advance: Advance) -> bool:
    """Link or copy the file; returns whether `target` is a hard link."""
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        _copy(source, target, stated, advance)
        return False
    advance(stated.size or 0)
    return True


def _copy(source: Path, target: Path, stated: StatedFile, advance: Advance) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
            advance(len(chunk))
    if digest.hexdigest() != stated.sha256:
        raise BuildError(f"{source} changed while it was copied; run the same command again")
