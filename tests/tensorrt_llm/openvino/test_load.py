"""Faults that keep the OpenVINO runtime from loading, one sentence each; loading sends nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_config import EngineConfigError
from token_engine.interface import EngineLoadError
from token_engine.openvino_runtime import memory as openvino_memory
from token_engine.openvino_runtime.engine import OpenVinoEngine

from tests.support.paths import BUILD, ROOM_2, ROOT
from tests.support.small_engines import (
    changed_config,
    load_engine,
)


def _truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def _unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_unlink("openvino_model.xml"), r"openvino_model\.xml does not exist; rebuild"),
        (_unlink("openvino_model.bin"), r"openvino_model\.bin does not exist; rebuild"),
        (_unlink("config.json"), r"config\.json does not exist; rebuild"),
        (_truncate("openvino_model.xml"), r"cannot load the engine in .*rebuild"),
        (_truncate("openvino_model.bin"), r"cannot load the engine in .*rebuild"),
        (_truncate("config.json"), r"config\.json is damaged .*rebuild"),
    ],
)
def test_damaged_engine_is_named(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], expected: str
) -> None:
    copy = shutil.copytree(folder, tmp_path / "engine")
    damage(copy)
    with pytest.raises(EngineLoadError, match=expected) as error:
        load_engine(copy)
    assert "\n" not in str(error.value)


def test_engine_of_another_release_is_refused(folder: Path) -> None:
    config = changed_config(folder)
    config.built_with["openvino"] = "2025.3.0"
    with pytest.raises(
        EngineLoadError, match=r"built with openvino 2025\.3\.0, installed is .*make"
    ):
        OpenVinoEngine(folder, config)


def test_kv_cache_larger_than_the_memory_is_refused(folder: Path) -> None:
    with pytest.raises(
        EngineLoadError, match=r"KV cache \(.* GB in f32, num_kv_blocks 1000000000\) exceed"
    ):
        load_engine(folder, num_kv_blocks=10**9)


@pytest.mark.parametrize(
    ("folder", "limit", "used", "cache"),
    [
        ("", "memory.max", "memory.current", "file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_file"),
    ],
)
def test_the_containers_memory_limit_counts(
    tmp_path: Path, folder: str, limit: str, used: str, cache: str
) -> None:
    """With both versions of cgroups; file caches count as free: a built engine fills them."""
    meminfo, own = tmp_path / "meminfo", tmp_path / "own"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable:  500 kB\n")
    own.write_text(f"3:cpu:/else\n9:{folder}:/a/b\n")

    def available() -> int:
        return openvino_memory.available_bytes(meminfo, tmp_path, own)

    root = tmp_path / folder
    for group, free in ((root, 200_000), (root / "a", 150_000), (root / "a" / "b", 100_000)):
        group.mkdir(exist_ok=True)
        (group / limit).write_text(f"{free + 100_000}\n")
        (group / used).write_text("300000\n")
        stat = cache.replace("file", "inactive_file"), cache.replace("file", "active_file")
        (group / "memory.stat").write_text(f"anon 7\n{stat[0]} 150000\n{stat[1]} 50000\n")
        assert available() == free
        (group / limit).write_text("max\n")
    assert available() == 512_000
    (root / limit).write_text("9223372036854771712\n")  # no limit, in version 1
    assert available() == 512_000
    (root / limit).write_text("50000\n")  # less than is used
    assert available() == 0


def test_no_telemetry_is_sent(folder: Path) -> None:
    """In a separate process: loading a model must neither fork nor load the telemetry."""
    script = f"""
import os, sys
sys.path[:0] = {[str(ROOM_2), str(ROOT), str(BUILD)]!r}
forks = []
os.register_at_fork(before=lambda: forks.append(1))
from pathlib import Path
from tests.support.engine_answers import generate
from tests.support.small_engines import load_engine, request
engine = load_engine(Path({str(folder)!r}))
generate(engine, request(1, (5, 6), 4))
engine.shutdown()
assert not forks and sys.modules["openvino_telemetry"] is None
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino_genai", None)
    with pytest.raises(EngineLoadError, match="OpenVINO GenAI is not installed"):
        load_engine(folder)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"precision": "f16"}, "precision is 'f16' and must be one of 'auto', 'bf16', 'f32'"),
        ({"kv_cache_precision": "i4"}, "kv_cache_precision is 'i4'"),
        ({"num_kv_blocks": 0}, "num_kv_blocks is 0 and must be at least 1"),
        ({"blocks": 4}, "unknown key 'blocks'"),
    ],
)
def test_wrong_options_are_named(folder: Path, options: dict[str, object], expected: str) -> None:
    with pytest.raises(EngineConfigError, match=expected):
        load_engine(folder, **options)
