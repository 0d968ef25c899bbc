"""The assembled repository: self-contained, verified by its manifest, served from anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from assemble_repository import assemble
from host.console import BuildError
from llama_fp4 import Client
from repository.manifest import MANIFEST, check_manifest
from serving.child_server import ServerProcess, free_ports

from tests.support.paths import BUILD, ROOT


@pytest.fixture
def copy(replay_repository: Path, tmp_path: Path) -> Path:
    """A plain copy of the repository: on another path, without links."""
    return shutil.copytree(replay_repository, tmp_path / "elsewhere")


def test_a_copy_is_whole_and_serves_unchanged(copy: Path, tmp_path: Path) -> None:
    files = check_manifest(copy)
    with (
        ServerProcess(copy, free_ports(), tmp_path / "log") as server,
        Client(server.ports.url("grpc")) as client,
    ):
        assert client.generate("Hello there", max_tokens=4).text == "Hello there"
    assert check_manifest(copy) == files  # what serving leaves behind is no damage


def test_no_file_names_the_place_where_it_was_made(copy: Path) -> None:
    for path in copy.rglob("*"):
        assert not path.is_symlink()
        if path.is_file() and path.suffix not in (".npz", ".pyc"):
            text = path.read_text(encoding="utf-8")
            assert str(ROOT) not in text
            assert str(copy) not in text
    # An object store keeps no folder without a file.
    assert all(any(folder.iterdir()) for folder in copy.rglob("*") if folder.is_dir())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


ENGINE = Path("tensorrt_llm/1/engine/token_bytes.npz")
DAMAGE: list[tuple[Path, Callable[[Path], object], str]] = [
    (ENGINE, flip, "token_bytes.npz is not what manifest.json says"),
    (ENGINE, shorten, r"token_bytes.npz has \d+ bytes, manifest.json says"),
    (ENGINE, Path.unlink, "lacks tensorrt_llm/1/engine/token_bytes.npz"),
    (Path("ensemble/1/.gitkeep"), Path.unlink, "lacks ensemble/1/.gitkeep"),
    (Path("ensemble/extra"), Path.touch, "holds ensemble/extra, which manifest.json does not list"),
    (Path(MANIFEST), Path.unlink, "manifest.json does not exist"),
    (Path(MANIFEST), lambda path: path.write_text("{"), "manifest.json is damaged"),
    (Path(MANIFEST), lambda path: path.write_text("{}"), "manifest.json is damaged"),
]


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGE)
def test_damage_is_named_with_the_remedy(
    copy: Path, name: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(copy / name)
    with pytest.raises(BuildError, match=words) as caught:
        check_manifest(copy)
    assert "assemble it again" in str(caught.value)


def test_an_interrupted_assembly_is_detected_and_a_rerun_finishes_it(
    replay_repository: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = replay_repository / "tensorrt_llm" / "1" / "engine"
    monkeypatch.setattr("assemble_repository._install", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assemble(engine, copy)
    with pytest.raises(BuildError, match=r"manifest\.json does not exist"):
        check_manifest(copy)
    monkeypatch.undo()
    (copy / "ensemble" / "stale.py").touch()
    (copy / f"{MANIFEST}.4242.partial").touch()  # killed while it wrote the manifest
    assemble(engine, copy)
    assert not list(copy.glob("*.partial"))
    assert check_manifest(copy) == len(
        json.loads((replay_repository / MANIFEST).read_text())["files"]
    )


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_foreign_folder_is_left_alone(replay_repository: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(BuildError, match="is not empty and not a model repository"):
        assemble(replay_repository / "tensorrt_llm" / "1" / "engine", tmp_path / "letters")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["a.txt"]


def test_the_command_line(copy: Path) -> None:
    command = [sys.executable, str(BUILD / "assemble_repository.py"), "--check", str(copy)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "files are what its manifest says" in result.stdout
    flip(copy / ENGINE)
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
