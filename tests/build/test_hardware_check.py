"""One sentence says what the machine lacks, before anything is read or written."""

from __future__ import annotations

from pathlib import Path

import pytest
from compile_engine import compile_engine, parse_arguments
from engines.hardware import GIB, machine_memory_bytes
from host.console import BuildError
from host.gpus import Gpu, what_fits

from tests.support.small_engines import write_checkpoint


def build(folder: Path, *arguments: str) -> None:
    checkpoint = write_checkpoint(folder / "checkpoint")
    common = ("--checkpoint", str(checkpoint), "--output", str(folder / "engine"))
    compile_engine(parse_arguments([*common, *arguments]))


def test_a_kv_cache_larger_than_the_memory(tmp_path: Path) -> None:
    tokens = str(10**9)  # of 2 layers x 2 heads x 16 values, keys and values, in f32: 477 GiB
    with pytest.raises(BuildError, match=r"has [\d.]+ GiB of memory and the engine needs 47[67]"):
        build(tmp_path, "--runtime", "openvino", "--precision", "f32", "--kv-cache-tokens", tokens)
    assert not (tmp_path / "engine").exists()


def test_a_profile_for_a_larger_machine(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    text = 'description = "d"\nmodel_name = "m"\nruntime = "openvino"\ncheckpoint.directory = "x"\n'
    path.write_text(text + "hardware.memory_gib = 1e6\n")
    with pytest.raises(BuildError, match=r"and the engine needs 1000000\.0 GiB"):
        build(tmp_path, "--profile", str(path))


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    whole = machine_memory_bytes(tmp_path, own)  # without such files
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory_bytes(tmp_path, own) == whole
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    assert machine_memory_bytes(tmp_path, own) == GIB
    own.write_text("0::/a.slice/b.service\n")  # a limit of systemd's, on a group above
    (tmp_path / "a.slice").mkdir()
    (tmp_path / "a.slice" / "memory.max").write_text(f"{GIB // 2}\n")
    assert machine_memory_bytes(tmp_path, own) == GIB // 2


@pytest.mark.parametrize(
    ("capability", "fp4", "marlin"),
    [("7.5", False, False), ("8.0", False, True), ("9.0", False, True), ("10.0", True, True),
     ("10.3", True, True), ("11.0", False, True), ("12.0", True, True), ("12.1", True, True)],
)  # fmt: skip
def test_what_each_gpu_can_compute(capability: str, fp4: bool, marlin: bool) -> None:
    """TensorRT-LLM's predicate for NVFP4 is sm 100, 103, 120 and 121; Marlin begins with sm80."""
    gpu = Gpu("a GPU", capability, 1000, "590")
    assert (gpu.has_fp4, gpu.has_marlin) == (fp4, marlin)


def test_the_table_has_a_line_for_each_family() -> None:
    head, *rows = what_fits().splitlines()
    assert head.split() == ["compute", "capability", "hardware", "--runtime", "computes", "with"]
    assert [row.split()[0] for row in rows] == ["10.0", "10.3", "12.0", "12.1", "9.0", "8.x",
                                                "none"]  # fmt: skip
