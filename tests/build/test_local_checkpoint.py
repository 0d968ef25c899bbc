"""A checkpoint on this machine: checked in place, or linked or copied into a folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints.local import check_in_place, import_from
from checkpoints.manifest import MANIFEST, read_manifest
from checkpoints.nvfp4 import open_checkpoint
from host.console import BuildError

from tests.build.test_nvfp4_checkpoint import unquantize
from tests.support.hub_fetcher import NAMED_TEMPLATE
from tests.support.paths import BUILD, DEMO, DEMO_CHECKPOINT
from tests.support.processes import eventually
from tests.support.small_engines import write_checkpoint

SCRIPT = BUILD / "fetch_checkpoint.py"
SHARD = "model.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "given")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def flip(path: Path, at: int = -1) -> None:
    """Replace a file by one with a bit changed; hard links to the old file keep its bytes."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.unlink()
    path.write_bytes(content)


def sha256_list(folder: Path, *names: str) -> Path:
    """A list as `sha256sum NAME...` prints it."""
    path = folder.with_name("SHA256SUMS")
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    path.write_text("# the publisher's list\n" + "".join(lines))
    return path


def test_demo_checkpoint_is_checked_in_place() -> None:
    before = sorted(DEMO.rglob("*"))
    process = run("--check", DEMO_CHECKPOINT)
    assert (process.returncode, process.stderr) == (0, "")
    assert "is whole: 195 tensors, 4,758,400 bytes, 6 layers, NVFP4" in process.stdout
    assert "only its layout and values were checked: nothing states its" in process.stdout
    assert sorted(DEMO.rglob("*")) == before


def test_folder_is_linked_and_described(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint / "notes.txt").write_text("not a checkpoint's file")
    (checkpoint / "LICENSE").write_text("the licence")
    (checkpoint / NAMED_TEMPLATE).parent.mkdir()
    (checkpoint / NAMED_TEMPLATE).write_text("{{ messages }}")
    output = tmp_path / "new" / "output"
    import_from(checkpoint, output)
    assert "is ready: 8 files linked, 0 copied" in capsys.readouterr().out
    names = {path.name for path in checkpoint.iterdir()} - {"notes.txt"}
    assert {path.name for path in output.iterdir()} == {*names, MANIFEST}
    assert (output / SHARD).samefile(checkpoint / SHARD)
    manifest = read_manifest(output)
    assert manifest is not None
    names = names - {"additional_chat_templates"} | {NAMED_TEMPLATE}
    assert (manifest.repo, manifest.commit, set(manifest.files)) == ("", "", names)
    assert (output / NAMED_TEMPLATE).samefile(checkpoint / NAMED_TEMPLATE)
    check_in_place(output)
    assert f"8 of 8 files are what {MANIFEST} states" in capsys.readouterr().out
    import_from(checkpoint, output)  # a second time
    flip(output / "LICENSE")
    with pytest.raises(BuildError, match=r"LICENSE has the SHA-256 \w+, checkpoint_manifest\.js"):
        check_in_place(output)


def test_files_are_copied_where_they_cannot_be_linked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    import_from(checkpoint, tmp_path / "output")
    assert "is ready: 0 files linked, 6 copied" in capsys.readouterr().out
    assert (tmp_path / "output" / SHARD).read_bytes() == (checkpoint / SHARD).read_bytes()


def test_disk_too_small_for_copies_is_refused_before_anything_is_read(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoints.local._bytes_to_copy", lambda *_: 2**60)
    monkeypatch.setattr("checkpoints.local.check_file", None)
    with pytest.raises(BuildError, match=r"the disk is full: .* needs 1152921504\.67 GB and"):
        import_from(checkpoint, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_list_of_hashes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = sha256_list(checkpoint, SHARD, "config.json")
    check_in_place(checkpoint, hashes)
    assert f"2 of 6 files are what {hashes} states" in capsys.readouterr().out
    with pytest.raises(BuildError, match=f"has no hash of {SHARD}; add its line"):
        check_in_place(checkpoint, sha256_list(checkpoint, "config.json"))
    hashes = sha256_list(checkpoint, SHARD)
    flip(checkpoint / SHARD)
    with pytest.raises(BuildError, match=rf"{SHARD} has the SHA-256 \w+, .*SHA256SUMS states \w+"):
        import_from(checkpoint, tmp_path / "output", hashes)
    assert not (tmp_path / "output").exists()
    hashes.write_text(f"{'a' * 63} {SHARD}\n")
    with pytest.raises(
        BuildError, match=r"SHA256SUMS:1 must be '<64 .* not 'a+ model\.safetensor'"
    ):
        check_in_place(checkpoint, hashes)
    with pytest.raises(BuildError, match=r"--sha256 .*nothing cannot be read"):
        check_in_place(checkpoint, tmp_path / "nothing")


@pytest.fixture
def snapshot(checkpoint: Path, tmp_path: Path) -> Path:
    """A repository in the layout of huggingface_hub's cache."""
    repository = tmp_path / "hub" / "models--nvidia--Llama"
    folder = repository / "snapshots" / ("a1" * 20)
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (checkpoint / NAMED_TEMPLATE).parent.mkdir()
    (checkpoint / NAMED_TEMPLATE).write_text("{{ messages }}")
    (folder / NAMED_TEMPLATE).parent.mkdir()
    for path in filter(Path.is_file, checkpoint.rglob("*")):
        name = path.relative_to(checkpoint).as_posix()
        content = path.read_bytes()
        large = path.suffix == ".safetensors"
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        blob = hashlib.sha256(content).hexdigest() if large else blob
        shutil.copyfile(path, repository / "blobs" / blob)
        (folder / name).symlink_to(f"{'../' * name.count('/')}../../blobs/{blob}")
    return folder


def test_cache_of_the_hub_states_its_hashes(
    snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_from(snapshot, tmp_path / "output")
    states = f"7 of 7 files are what the Hugging Face cache (nvidia/Llama at {'a1' * 20}) states"
    assert states in capsys.readouterr().out
    assert not (tmp_path / "output" / SHARD).is_symlink()
    manifest = read_manifest(tmp_path / "output")
    assert manifest is not None
    assert (manifest.repo, manifest.commit) == ("nvidia/Llama", "a1" * 20)
    blob = (snapshot / "config.json").resolve()
    blob.write_text(blob.read_text() + "\n")
    with pytest.raises(BuildError, match=r"config\.json has the git SHA-1 .*delete the file and"):
        check_in_place(snapshot)
    blob.unlink()
    with pytest.raises(BuildError, match=r"config\.json is a link to nothing; fetch"):
        check_in_place(snapshot)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "half a shard": (
        lambda folder: os.truncate(folder / SHARD, (folder / SHARD).stat().st_size // 2),
        r"is truncated: .* ends \d+ bytes after the file; fetch the checkpoint again",
    ),
    "a shard that is still being fetched": (
        lambda folder: (folder / SHARD).rename(folder / f"{SHARD}.0123.part"),
        rf"{SHARD} does not exist; fetch the checkpoint again",
    ),
    "a pointer of git LFS": (
        lambda folder: (folder / SHARD).write_text("version https://git-lfs.github.com/spec/v1\n"),
        r"is a git LFS pointer, not the file; run 'git lfs pull'",
    ),
    "FP8": (
        lambda folder: edit(
            folder / "hf_quant_config.json", quantization={"quant_algo": "FP8", "group_size": None}
        ),
        r"quant_algo is 'FP8' .*, but must be 'NVFP4' with 16; quantize the BF16 model with",
    ),
    "not quantized": (
        unquantize,
        r"config\.json: quantization_config\.quant_algo is null .*, but must be 'NVFP4'",
    ),
    "not a Llama": (
        lambda folder: edit(folder / "config.json", model_type="qwen3"),
        r"model_type is 'qwen3', but must be 'llama'; give a Llama 3\.x checkpoint",
    ),
    "one layer too many in the config": (
        lambda folder: edit(folder / "config.json", num_hidden_layers=3),
        r"lacks the tensor model\.layers\.2\.\S+, which config\.json calls for .*; give weights",
    ),
    "another shape in the config": (
        lambda folder: edit(folder / "config.json", intermediate_size=4096),
        r"is U8 \[\d+, \d+\], config\.json calls for U8 \[4096, \d+\]; give",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"has no tokenizer\.json; give an NVFP4 checkpoint of a Llama 3\.x model with its tok",
    ),
    "a second model's weights": (
        lambda folder: shutil.copyfile(folder / SHARD, folder / "old.safetensors"),
        r"old\.safetensors does not belong to the checkpoint, whose weights are model\.saf",
    ),
    "a damaged manifest": (
        lambda folder: (folder / MANIFEST).write_text("{}"),
        r"checkpoint_manifest\.json is damaged \(.*\); remove it to check the folder by its layout",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folder_is_refused_before_it_is_read(
    checkpoint: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it, expected = BAD[name]
    break_it(checkpoint)
    monkeypatch.setattr("checkpoints.local.check_file", None)
    monkeypatch.setattr("checkpoints.check.check_values", None)
    with pytest.raises(BuildError, match=expected) as error:
        check_in_place(checkpoint)
    assert "\n" not in str(error.value)
    with pytest.raises(BuildError, match=expected):
        import_from(checkpoint, tmp_path / "output")
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


def test_swapped_scales_are_found_before_the_output_appears(
    checkpoint: Path, tmp_path: Path
) -> None:
    tensors = open_checkpoint(checkpoint).tensors
    content = bytearray((checkpoint / SHARD).read_bytes())
    for name, one in tensors.items():
        if name.endswith(".weight_scale_2"):
            other = tensors[name.replace("weight_scale_2", "input_scale")]
            content[one.offset : one.offset + 4] = other.data.tobytes()
            content[other.offset : other.offset + 4] = one.data.tobytes()
    flip(checkpoint / SHARD)  # another file: `tensors` maps the one that was there
    (checkpoint / SHARD).write_bytes(content)
    process = run("--from", checkpoint, "--output", tmp_path / "output")
    assert process.returncode == 1
    assert re.fullmatch(r"error: weight_scale_2 and input_scale look swapped .*\n", process.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


SLOW_COPY = """
import os, sys, time
sys.path.insert(0, {build!r})
import fetch_checkpoint, host.console
from checkpoints import local
def refuse(*_):
    raise OSError({exdev}, "no link")
os.link = refuse
local.CHUNK_BYTES = 2**16
take = local._copy
def copy(source, target, stated, advance):
    take(source, target, stated, lambda _: target.name == {shard!r} and time.sleep(60))
local._copy = copy
host.console.run_script(fetch_checkpoint.main)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_copy_is_done_anew(checkpoint: Path, tmp_path: Path, number: signal.Signals) -> None:
    code = SLOW_COPY.format(build=str(SCRIPT.parent), exdev=errno.EXDEV, shard=SHARD)
    arguments = ("--from", str(checkpoint), "--output", str(tmp_path / "output"))
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    )
    eventually(lambda: bool(list(tmp_path.glob(f"output.partial-*/{SHARD}"))), "it copies")
    process.send_signal(number)
    _, error = process.communicate(timeout=500)
    assert not (tmp_path / "output").exists()
    if number == signal.SIGINT:
        assert (process.returncode, error) == (130, "interrupted; nothing was changed\n")
        assert [path.name for path in tmp_path.iterdir()] == ["given"]
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("left by an interrupted run" in done.stdout) is (number == signal.SIGKILL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "output"]
