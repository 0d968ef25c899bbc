"""A mapped file's pages are released, and later reads give the same bytes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from token_engine.openvino_runtime import engine as openvino_engine
from token_engine.openvino_runtime import memory as mapped_files
from token_engine.openvino_runtime.memory import release_mapped_file

from tests.support.engine_answers import generate
from tests.support.small_engines import (
    build_engine,
    load_engine,
    random_prompt,
    request,
    write_checkpoint,
)

PAGES = 64
PAGE = mmap.PAGESIZE


def resident_kb(path: Path) -> int:
    """The pages of the file that this process holds, by the kernel's own count."""
    return sum(_resident(path))


def _resident(path: Path) -> Iterator[int]:
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.partition(" ")[0]:
            ours = line.endswith(f" {path}")
        elif ours and line.startswith("Rss:"):
            yield int(line.split()[1])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file with spaces"
    path.write_bytes(os.urandom(PAGES * PAGE))
    return path


@pytest.mark.parametrize("access", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_pages_are_released(file: Path, access: int, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access, mmap.PROT_READ)
    content = bytes(mapped)
    assert resident_kb(file) == PAGES * PAGE // 1024
    assert release_mapped_file(tmp_path / "link") == PAGES * PAGE
    assert resident_kb(file) == 0
    assert bytes(mapped) == content == file.read_bytes()
    mapped.close()


def test_a_mapping_that_was_written_is_left_alone(file: Path) -> None:
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    mapped[:4] = b"mine"
    assert release_mapped_file(file) == 0
    assert mapped[:4] == b"mine"
    mapped.close()


def test_without_madvise_nothing_happens(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release_mapped_file(file) == 0  # nobody mapped it
    assert release_mapped_file(tmp_path / "missing") == 0
    monkeypatch.setattr(mapped_files, "MAPS", tmp_path / "no-proc")
    assert release_mapped_file(file) == 0
    monkeypatch.setattr("sys.platform", "darwin")
    assert release_mapped_file(file) == 0


def test_an_engine_releases_the_checkpoints_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the warm-up's request; its answers are those of an engine that keeps them."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", hidden_size=128, intermediate_size=512)
    folder = build_engine(checkpoint, tmp_path / "engine")
    weights = folder / "openvino_model.bin"
    prompts = [request(key, random_prompt(30 + key, seed=key), 8) for key in range(1, 4)]
    answers = []
    for release in (release_mapped_file, lambda path: 0):
        monkeypatch.setattr(openvino_engine, "release_mapped_file", release)
        engine = load_engine(folder)
        before = resident_kb(weights)
        assert before > 0
        generate(engine, request(99, (5,) * 64, 2))
        kept = resident_kb(weights)
        assert (kept == 0) is (release is release_mapped_file)
        answers.append(generate(engine, *prompts))
        engine.shutdown()
    assert answers[0] == answers[1]
