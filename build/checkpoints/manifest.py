"""A checkpoint's files: which ones a build needs, and their sizes and hashes.

`checkpoint_manifest.json` is written last, so a folder that holds it is whole. `check_file`
compares a file with the size and hash that a hub, a list or the manifest states.
`digest_checkpoint` gives one SHA-256 for the whole folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from host.console import BuildError, Phase

from checkpoints.safetensors_file import INDEX, SINGLE_SHARD, shards

MANIFEST = "checkpoint_manifest.json"
FORMAT_VERSION = 1
CHUNK_BYTES = 4 * 2**20
NEEDED = ("config.json", "tokenizer.json")
OPTIONAL = (
    "tokenizer_config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    INDEX,
)
TEMPLATES = "additional_chat_templates"  # a folder of NAME.jinja
MEMORY = "checkpoint_files.json"  # in an engine's folder: the files that its digest covers
LEGAL = ("license", "licence", "notice", "use_policy")  # how such files' names begin

Advance = Callable[[int], None]


@dataclass(frozen=True)
class StatedFile:
    """A file as a hub, a manifest or a list states it; "" and None are not stated."""

    size: int | None = None
    sha256: str = ""
    blob_sha1: str = ""  # git's: SHA-1 of "blob SIZE\\0" and the bytes

    @property
    def hash(self) -> str:
        """The hash that is stated, or ""."""
        return self.sha256 or self.blob_sha1


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest."""

    repo: str  # "owner/name" on the hub; "" if the origin is not known
    commit: str
    verified_by: str  # what the files were compared with when they were fetched
    files: dict[str, StatedFile]


def is_small_file(name: str) -> bool:
    """Whether a build needs the file `name` of a repository, apart from the weights. False for
    every path that leaves the repository."""
    folder, slash, base = name.rpartition("/")
    if slash:
        return folder == TEMPLATES and base.endswith(".jinja")
    legal = name.lower().startswith(LEGAL) and not name.endswith(".py")
    return name in NEEDED or name in OPTIONAL or legal


def small_files(directory: Path) -> list[str]:
    """The small files of a folder, broken links included."""
    paths = [*directory.iterdir(), *(directory / TEMPLATES).glob("*.jinja")]
    return sorted(filter(is_small_file, (path.relative_to(directory).as_posix() for path in paths)))


def check_needed(where: str, names: Iterable[str]) -> None:
    """Raise `BuildError` unless `names` include the files that every engine needs."""
    missing = [name for name in NEEDED if name not in set(names)]
    if missing:
        raise BuildError(
            f"{where} has no {missing[0]}; give an NVFP4 checkpoint of a Llama 3.x model with its "
            "tokenizer"
        )


def shard_names(directory: Path) -> list[str]:
    """The weights' files that the index in `directory` names, or the only one."""
    return [path.name for path in shards(directory)]


def looks_like_weights(name: str) -> bool:
    """Whether a runtime that loads every shard of a folder would load this file."""
    return "/" not in name and (name == SINGLE_SHARD or name.endswith(".safetensors"))


def check_file(path: Path, stated: StatedFile, source: str, advance: Advance) -> str:
    """Read `path` and return its SHA-256; raises `BuildError` if it is not what `source` states."""
    size = path.stat().st_size
    if stated.size is not None and size != stated.size:
        raise BuildError(f"{path} has {size} bytes, {source} states {stated.size}")
    digests = [hashlib.sha256()]
    if stated.blob_sha1 and not stated.sha256:
        digests.append(hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False))
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            for digest in digests:
                digest.update(chunk)
            advance(len(chunk))
    if stated.hash and digests[-1].hexdigest() != stated.hash:
        name = "SHA-256" if stated.sha256 else "git SHA-1"
        raise BuildError(
            f"{path} has the {name} {digests[-1].hexdigest()}, {source} states {stated.hash}"
        )
    return digests[0].hexdigest()


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest whole; every file in it must be on the disk already."""
    document = {"format_version": FORMAT_VERSION, **asdict(manifest)}
    document["files"] = {
        name: {"size": file.size, "sha256": file.sha256}
        for name, file in sorted(manifest.files.items())
    }
    partial = directory / f"{MANIFEST}.partial"
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / MANIFEST)


def read_manifest(directory: Path) -> Manifest | None:
    """The folder's manifest, None without one; raises `BuildError` if it is damaged."""
    path = directory / MANIFEST
    remedy = "remove it to check the folder by its layout alone, or fetch the checkpoint again"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["format_version"] != FORMAT_VERSION:
            raise BuildError(f"{path} has another format_version; {remedy}")
        files = {name: _entry(name, entry) for name, entry in document["files"].items()}
        repo, commit = str(document["repo"]), str(document["commit"])
        verified_by = str(document["verified_by"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BuildError(f"{path} is damaged ({error!r}); {remedy}") from error
    return Manifest(repo, commit, verified_by, files)


def _entry(name: str, entry: dict[str, Any]) -> StatedFile:
    size, sha256 = entry["size"], entry["sha256"]
    in_root = Path(name).name == name
    if not (in_root or is_small_file(name)) or type(size) is not int or len(sha256) != 64:
        raise ValueError(f"the entry of {name}")
    return StatedFile(size, sha256)


def is_unchanged(directory: Path, manifest: Manifest) -> bool:
    """Whether every file of the manifest exists, has its size and is not newer than it."""
    written = (directory / MANIFEST).stat().st_mtime_ns
    for name, stated in manifest.files.items():
        try:
            facts = (directory / name).stat()
        except FileNotFoundError:
            return False
        if facts.st_size != stated.size or facts.st_mtime_ns > written:
            return False
    return True


def digest_checkpoint(checkpoint: Path, engine: Path) -> dict[str, Any]:
    """Return `{"sha256": hex, "files": {name: [size, mtime_ns]}}`, to be saved with the engine.

    The digest covers name, size and bytes of every file in the checkpoint's folder, in name order.
    The manifest does not count: a fetched copy is the same checkpoint.
    """
    paths = sorted(path for path in checkpoint.iterdir() if _counts(path))
    paths += sorted((checkpoint / TEMPLATES).glob("*.jinja"))
    if not paths:
        raise BuildError(f"{checkpoint} holds no files; fetch the checkpoint into it")
    names = {path: path.relative_to(checkpoint).as_posix() for path in paths}
    files = {names[path]: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    remembered = _remembered(engine / MEMORY)
    if remembered.get("files") == files and isinstance(remembered.get("sha256"), str):
        return remembered
    digest = hashlib.sha256()
    total = sum(size for size, _ in files.values())
    with Phase("reading the checkpoint's digest", total) as phase:
        for path in paths:
            digest.update(f"{names[path]}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    phase.advance(len(chunk))
    return {"sha256": digest.hexdigest(), "files": files}


def _counts(path: Path) -> bool:
    return path.is_file() and path.name[0] != "." and path.name != MANIFEST


def _remembered(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
