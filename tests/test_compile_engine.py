"""From checkpoint to engine: its bytes, the reference's tokens, and whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import compile_engine as compiler
import numpy as np
import pytest
from build_console import BuildError, run_script
from checkpoint_edits import swap_scales
from engine_config import load_engine_config
from engine_fixtures import (
    DEMO,
    OPENVINO,
    build_engine,
    drain,
    generate,
    load_engine,
    load_reference,
    random_prompt,
    request,
    sure_greedy,
    write_checkpoint,
)
from nvfp4_checkpoint import open_checkpoint
from token_engine.registry import make_engine
from token_table import read_token_table
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Path:
    return build_engine(checkpoint, checkpoint.parent / "engine")


def test_demo_engine_speaks_the_golden_tokens(tmp_path: Path) -> None:
    """Against tokens that another implementation computed in f32; a wrong nibble order, a lost
    global scale or a wrong rotary embedding changes them."""
    golden = json.loads((DEMO / "golden" / "greedy.json").read_text(encoding="utf-8"))
    folder = build_engine(DEMO / "checkpoint", tmp_path / "engine", "--max-seq-len", "1024")
    engine = load_engine(folder)
    ends, prompts = tuple(golden["eos_ids"]), golden["prompts"]
    answers = generate(
        engine,
        *(
            request(key, prompt["prompt_ids"], prompt["max_new_tokens"], ends)
            for key, prompt in enumerate(prompts)
        ),
    )
    for key, prompt in enumerate(prompts):
        stopped = prompt["tokens"][-1] in ends
        assert answers[key].tokens == prompt["tokens"][: -1 if stopped else None], prompt["name"]
        assert answers[key].reason == ("stop" if stopped else "length"), prompt["name"]


SHAPES: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "every query head with its own keys": {"num_key_value_heads": 4},
    "one key head for all": {"num_key_value_heads": 1, "num_hidden_layers": 1},
    "head_dim is not hidden / heads": {"head_dim": 48},
    "no rope scaling": {"rope_scaling": None, "rope_theta": 10000.0},
    "two shards": {"shard_bytes": 150_000},
}


@pytest.mark.parametrize("name", SHAPES)
def test_any_llama_shape_equals_the_reference(tmp_path: Path, name: str) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", seed=5, **SHAPES[name])
    engine = load_engine(build_engine(checkpoint, tmp_path / "engine"))
    reference = load_reference(checkpoint)
    prompts = [random_prompt(length, seed=length) for length in (1, 40, 90)]
    answers = generate(engine, *(request(key, prompt, 16) for key, prompt in enumerate(prompts)))
    for key, prompt in enumerate(prompts):
        expected = sure_greedy(reference, prompt, 16)
        assert answers[key].tokens[: len(expected)] == expected
        assert len(expected) >= 4


def test_every_linear_keeps_its_bytes(checkpoint: Path, engine: Path) -> None:
    """Read from the two files with nothing of the compiler's code."""
    weights = (engine / "openvino_model.bin").read_bytes()
    constants = {}
    for layer in ElementTree.parse(engine / "openvino_model.xml").iter("layer"):
        data = layer.find("data")
        if layer.get("type") == "Const" and data is not None:
            start, size = int(data.get("offset", "")), int(data.get("size", ""))
            kind = data.get("element_type")
            constants[layer.get("name")] = (kind, weights[start : start + size])
    kinds = {"U8": "f4e2m1", "F8_E4M3": "f8e4m3", "BF16": "bf16"}
    stored = open_checkpoint(checkpoint).tensors.values()
    large = [tensor for tensor in stored if tensor.dtype in kinds]
    assert len(large) == 2 * 7 * 2 + 2 * 2 + 3
    for tensor in large:
        assert constants[tensor.name] == (kinds[tensor.dtype], tensor.data.tobytes()), tensor.name


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_every_linear_is_computed_on_four_bits(engine: Path, precision: str) -> None:
    core = OPENVINO.Core()
    compiled = core.compile_model(
        engine / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": precision}
    )
    kinds = [
        str(node.input(1).get_element_type())
        for node in compiled.get_runtime_model().get_ops()
        if "layerType" in node.get_rt_info()
        and node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    ]
    assert sum("f4e2m1" in kind for kind in kinds) == 2 * 7, kinds


def test_description_says_what_was_built(checkpoint: Path, engine: Path) -> None:
    config = load_engine_config(engine)
    assert config.runtime == "openvino"
    assert (config.model.name, config.model.vocab_size) == ("checkpoint", 512)
    assert config.model.eos_token_ids == [1, 2, 3]
    assert config.limits.max_seq_len == 512
    assert config.runtime_options["num_kv_blocks"] == 16 * 512 // 32
    assert config.built_with["openvino"].startswith(".".join(OPENVINO.__version__.split(".")[:2]))
    assert len(config.model.checkpoint_sha256) == 64


def test_replay_needs_no_weights(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "model.safetensors").unlink()
    folder = build_engine(checkpoint, tmp_path / "e", "--step-seconds", "0.001", runtime="replay")
    config = load_engine_config(folder)
    assert config.runtime_options == {"step_seconds": 0.001}
    answers = generate(make_engine(folder, config), request(1, (7, 8, 9), 5))
    assert answers[1].tokens == [7, 8, 9, 7, 8]
    assert not (folder / "openvino_model.bin").exists()


def fingerprint(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_second_run_does_no_work_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    folder = build_engine(checkpoint, tmp_path / "engine")
    before = fingerprint(folder)
    capsys.readouterr()
    build_engine(checkpoint, folder)
    assert capsys.readouterr().out == f"{folder} is up to date\n"
    assert fingerprint(folder) == before
    for path in checkpoint.iterdir():  # a copy with new times, yet the same content
        os.utime(path, ns=(0, 0))
    build_engine(checkpoint, folder)
    assert fingerprint(folder) == before


def test_other_options_or_weights_are_built_anew(tmp_path: Path) -> None:
    folder = build_engine(write_checkpoint(tmp_path / "a"), tmp_path / "engine")
    build_engine(tmp_path / "a", folder, "--max-batch-size", "2", "--model-name", "one")
    first = load_engine_config(folder)
    assert first.limits.max_batch_size == 2
    other = write_checkpoint(tmp_path / "b", seed=2)
    build_engine(other, folder, "--max-batch-size", "2", "--model-name", "one")
    second = load_engine_config(folder)
    assert second.model.checkpoint_sha256 != first.model.checkpoint_sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "engine"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--max-seq-len", "5000"), "--max-seq-len is 5000, allowed is at most 4096"),
        (("--max-batch-size", "0"), "limits.max_batch_size is 0"),
        (("--max-num-tokens", "8"), "--max-num-tokens is 8, allowed is at least --max-batch-size"),
        (
            ("--kv-cache-tokens", "100"),
            "--kv-cache-tokens is 100, allowed is at least --max-seq-len",
        ),
        (("--threads", "-1"), "runtime_options.num_threads is -1"),
    ],
)
def test_wrong_limits_are_named(
    checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(BuildError, match=expected):
        build_engine(checkpoint, tmp_path / "engine", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_missing_checkpoint_and_tokenizer_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="nowhere is no folder; give --checkpoint"):
        build_engine(tmp_path / "nowhere", tmp_path / "engine")
    folder = write_checkpoint(tmp_path / "checkpoint")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BuildError, match=r"tokenizer\.json does not exist"):
        build_engine(folder, tmp_path / "engine")


def test_bad_weights_are_seen_before_anything_is_built(tmp_path: Path) -> None:
    """A sound layout, and the two scales of every linear in each other's place."""
    folder = shutil.copytree(DEMO / "checkpoint", tmp_path / "checkpoint")
    swap_scales(folder)
    with pytest.raises(BuildError, match="weight_scale_2 and input_scale look swapped in 42 of 42"):
        build_engine(folder, tmp_path / "engine")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_full_disk_is_one_sentence_and_keeps_the_old_engine(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = build_engine(checkpoint, tmp_path / "engine")
    before = fingerprint(folder)

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("openvino_files._write", no_space)
    with pytest.raises(SystemExit) as exit_info:
        run_script(lambda: print(build_engine(checkpoint, folder, "--max-batch-size", "3")))
    assert exit_info.value.code == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"error: the disk is full: {folder} could not be written whole")
    assert sentence.count("\n") == 1
    assert fingerprint(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


INTERRUPTED = """
import os, signal, sys
sys.path[:0] = [{build!r}]
import engine_description
engine_description.import_openvino()
import openvino_files
write = openvino_files._write
def dies_in_the_middle(file, data, phase):
    write(file, data, phase)
    file.flush()
    if file.tell() > 100_000:
        os.kill(os.getpid(), signal.{signal})
openvino_files._write = dies_in_the_middle
import compile_engine, build_console
build_console.run_script(compile_engine.main)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)])
def test_interrupted_run_leaves_no_engine(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    output = tmp_path / "engine"
    script = INTERRUPTED.format(build=str(ROOT / "build"), signal=name)
    arguments = ("--runtime", "openvino", "--checkpoint", str(checkpoint), "--output", str(output))
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    left = [path.name for path in tmp_path.iterdir()]
    assert all(folder.startswith("engine.partial-") for folder in left)
    assert len(left) == (1 if name == "SIGKILL" else 0)
    engine = load_engine(build_engine(checkpoint, output))
    assert len(generate(engine, request(1, (5, 6), 4))[1].tokens) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_partial_of_a_living_run_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    from whole_output import written_whole

    with written_whole(tmp_path / "engine", "engine.json") as partial:
        (partial / "engine.json").write_text("{}")
        build_engine(checkpoint, tmp_path / "engine")
        assert (partial / "engine.json").exists()


def test_folder_of_another_kind_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(BuildError, match=r"not empty and holds no engine\.json"):
        build_engine(checkpoint, tmp_path)
    assert (tmp_path / "letters.txt").exists()


def test_token_bytes_spell_what_the_tokenizer_reads(tmp_path: Path) -> None:
    """Joined, a text's tokens are the text's bytes; special tokens are their own text."""
    path = DEMO / "checkpoint" / "tokenizer.json"
    vocab_size = json.loads((DEMO / "checkpoint" / "config.json").read_text())["vocab_size"]
    read_token_table(path, vocab_size).save(tmp_path / "token_bytes.npz")
    table = np.load(tmp_path / "token_bytes.npz")
    offsets, data, special = table["offsets"], table["data"].tobytes(), table["special"]
    assert (offsets.dtype, offsets.shape) == (np.uint32, (vocab_size + 1,))
    assert (special.dtype, special.shape) == (np.bool_, (vocab_size,))
    tokenizer = Tokenizer.from_file(str(path))
    for text in ("Hello, world!\n", "añb 猫 🚀👍🏽 привет \x00\x7f\u00ad", "<|eot_id|> x"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert b"".join(data[offsets[i] : offsets[i + 1]] for i in ids) == text.encode()
    for added in json.loads(path.read_text(encoding="utf-8"))["added_tokens"]:
        number = added["id"]
        assert data[offsets[number] : offsets[number + 1]] == added["content"].encode()
        assert special[number] == added["special"]
    assert special.sum() == sum(a["special"] for a in json.loads(path.read_text())["added_tokens"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": {"type": "Unigram"}}, "type is 'Unigram', allowed is 'BPE'"),
        ({"model": {"type": "BPE", "vocab": {"a": 600}}}, "id 600, allowed is below"),
        ({"model": {"type": "BPE", "vocab": {"猫": 6}}}, "'猫' is not byte-level"),
    ],
)
def test_wrong_tokenizer_is_named(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(change))
    with pytest.raises(BuildError, match=expected):
        read_token_table(path, 512)


def test_chunked_prefill_and_decode_in_one_graph(checkpoint: Path, engine: Path) -> None:
    """The model's own state, without paged attention: its mask and positions are right."""
    model = OPENVINO.Core().compile_model(
        engine / "openvino_model.xml",
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"},
    )
    ids = np.array([random_prompt(30, seed=9)])
    infer, parts = model.create_infer_request(), []
    for start, end in ((0, 17), (17, 29), (29, 30)):
        inputs = {
            "input_ids": ids[:, start:end],
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(start, end)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        parts.append(infer.infer(inputs)["logits"][0].copy())
    expected = load_reference(checkpoint).forward(ids[0].tolist())
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=2e-5)


def test_compile_main_reports_phases(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["compile_engine.py", "--runtime", "openvino", "--output", str(tmp_path / "e")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--checkpoint", str(checkpoint)])
    run_script(compiler.main)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("writing the weights, ") and line.endswith(" s") for line in lines)
    assert lines[-1] == f"{tmp_path / 'e'} is ready"
    drain(load_engine(tmp_path / "e"))
