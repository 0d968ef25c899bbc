"""Which files distinguish checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

from checkpoints.local import import_from
from checkpoints.manifest import MANIFEST, digest_checkpoint

from tests.support.paths import DEMO_CHECKPOINT


def sha256(checkpoint: Path) -> str:
    found: str = digest_checkpoint(checkpoint, checkpoint / "no engine")["sha256"]
    return found


def test_a_fetched_copy_is_the_same_checkpoint(tmp_path: Path) -> None:
    """`make repository` serves a copy, which `make verify` compares with the original."""
    copy = tmp_path / "copy"
    import_from(DEMO_CHECKPOINT, copy)
    assert (copy / MANIFEST).is_file()
    assert sha256(copy) == sha256(DEMO_CHECKPOINT)


def test_any_other_file_counts(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(DEMO_CHECKPOINT, copy)
    (copy / "notes.json").write_text("{}", encoding="utf-8")
    assert sha256(copy) != sha256(DEMO_CHECKPOINT)
