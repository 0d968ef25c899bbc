"""One SHA-256 for a checkpoint, remembered for as long as its files' sizes and times stay."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from host.console import BuildError, Phase

from checkpoints.manifest import MANIFEST

MEMORY = "checkpoint_files.json"  # in an engine's folder: what its digest was taken of
TEMPLATES = "additional_chat_templates"  # a folder, whose files count too
CHUNK_BYTES = 16 * 2**20


def digest_checkpoint(checkpoint: Path, engine: Path) -> dict[str, Any]:
    """Return `{"sha256": hex, "files": {name: [size, mtime_ns]}}`, to be saved with the engine.

    The digest covers name, size and bytes of every file in the checkpoint's folder, in name order,
    but for the manifest that fetching adds: a copy is the same checkpoint.
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
