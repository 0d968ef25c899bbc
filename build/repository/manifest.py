"""`manifest.json` of an assembled model repository: every file's size and SHA-256, and whether the
ensemble is streaming or unary.

It lies in the repository's root, where Triton looks only at folders. With it a copy on another
path, machine or object store can be checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from host.console import BuildError, Phase
from host.output_folder import write_whole_file

from repository.unary import kind_of

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
CHUNK_BYTES = 16 * 2**20
ASSEMBLE = "assemble it again with build/assemble_repository.py"
MADE_BY_SERVING = "__pycache__"


def write_manifest(repository: Path) -> None:
    """Hash every file of `repository` and write the manifest, last and whole."""
    entries = _hashed(repository, list(_files(repository)))
    document = {
        "format_version": FORMAT_VERSION,
        "ensemble": kind_of(repository),
        "files": entries,
    }
    write_whole_file(repository / MANIFEST, json.dumps(document, indent=1) + "\n")


def check_manifest(repository: Path) -> int:
    """Compare every file with the manifest; returns their number, raises `BuildError`."""
    recorded = _read(repository / MANIFEST)
    found = list(_files(repository))
    missing, extra = recorded.keys() - set(found), set(found) - recorded.keys()
    if missing:
        raise BuildError(f"{repository} lacks {sorted(missing)[0]}; {ASSEMBLE}")
    if extra:
        raise BuildError(
            f"{repository} holds {sorted(extra)[0]}, which {MANIFEST} does not list; "
            f"remove it, or {ASSEMBLE}"
        )
    for name in found:
        size = (repository / name).stat().st_size
        if size != recorded[name]["size"]:
            raise BuildError(
                f"{repository / name} has {size} bytes, {MANIFEST} says "
                f"{recorded[name]['size']}; {ASSEMBLE}"
            )
    for name, entry in _hashed(repository, found).items():
        if entry["sha256"] != recorded[name]["sha256"]:
            raise BuildError(f"{repository / name} is not what {MANIFEST} says; {ASSEMBLE}")
    return len(found)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = document["files"]
        well_formed = document["format_version"] == FORMAT_VERSION and all(
            isinstance(entry["size"], int) and isinstance(entry["sha256"], str)
            for entry in files.values()
        )
    except FileNotFoundError:
        raise BuildError(f"{path} does not exist; {ASSEMBLE} --output DIR") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{path} is damaged ({error!r}); {ASSEMBLE}") from None
    if not well_formed:
        raise BuildError(f"{path} is another version's; {ASSEMBLE}")
    return files


def _files(repository: Path) -> Iterator[str]:
    for path in sorted(repository.rglob("*")):
        relative = path.relative_to(repository)
        if path.is_file() and MADE_BY_SERVING not in relative.parts and relative.name != MANIFEST:
            yield relative.as_posix()


def _hashed(repository: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    sizes = {name: (repository / name).stat().st_size for name in names}
    entries = {}
    known: dict[tuple[int, int], str] = {}  # read a file that several rooms share once
    with Phase("hashing the repository", sum(sizes.values())) as phase:
        for name in names:
            stat = (repository / name).stat()
            key = (stat.st_dev, stat.st_ino)
            if key not in known:
                known[key] = _sha256(repository / name)
            phase.advance(sizes[name])
            entries[name] = {"size": sizes[name], "sha256": known[key]}
    return entries


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
