"""From checkpoint to engine: its bytes, its description, and the reference's tokens."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.nvfp4 import open_checkpoint
from engine_config import load_engine_config
from engines.token_table import read_token_table
from host.console import BuildError
from token_engine.registry import make_engine
from tokenizers import Tokenizer

from tests.support.checkpoint_edits import scalar, without
from tests.support.engine_answers import generate
from tests.support.golden import GOLDEN, PROMPTS
from tests.support.paths import DEMO_CHECKPOINT
from tests.support.small_engines import (
    OPENVINO,
    build_engine,
    load_engine,
    load_reference,
    random_prompt,
    request,
    sure_greedy,
    write_checkpoint,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Path:
    return build_engine(checkpoint, checkpoint.parent / "engine")


def test_the_demo_engine_gives_the_golden_tokens(tmp_path: Path) -> None:
    """Against tokens that another implementation computed in f32; a wrong nibble order, a lost
    global scale or a wrong rotary embedding changes them."""
    folder = build_engine(DEMO_CHECKPOINT, tmp_path / "engine", "--max-seq-len", "1024")
    engine = load_engine(folder)
    ends = tuple(GOLDEN["eos_ids"])
    answers = generate(
        engine,
        *(
            request(key, prompt["prompt_ids"], prompt["max_new_tokens"], ends)
            for key, prompt in enumerate(PROMPTS)
        ),
    )
    for key, prompt in enumerate(PROMPTS):
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


def test_an_export_without_activation_scales_is_served(tmp_path: Path) -> None:
    """Weight-only arithmetic needs no such scales, and no equal ones in fused layers."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", seed=5)
    scalar(2e-4, "model.layers.0.self_attn.k_proj.weight_scale_2")(checkpoint)
    without(".input_scale", "v_scale")(checkpoint)
    engine = load_engine(build_engine(checkpoint, tmp_path / "engine"))
    prompt = random_prompt(20, seed=3)
    expected = sure_greedy(load_reference(checkpoint), prompt, 12)
    assert generate(engine, request(1, prompt, len(expected)))[1].tokens == expected


def test_every_linear_keeps_its_bytes(checkpoint: Path, engine: Path) -> None:
    """Read from the two files without the compiler's code."""
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
        alarm = 2 * tensor.shape[1] if tensor.name == "lm_head.weight" else 0  # bytes of its row
        kind, written = constants[tensor.name]
        assert kind == kinds[tensor.dtype], tensor.name
        assert written[: len(written) - alarm] == tensor.data.tobytes(), tensor.name


def test_guides_are_tried_on_as_many_logits(engine: Path) -> None:
    """Otherwise the library compiles each grammar again, in the engine's own step."""
    for folder in (engine, engine / "guides"):
        model = OPENVINO.Core().read_model(folder / "openvino_model.xml")
        assert model.output(0).partial_shape[-1].get_length() == 512 + 1


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


def test_token_bytes_spell_what_the_tokenizer_reads(tmp_path: Path) -> None:
    """Joined, a text's tokens are the text's bytes; special tokens are their own text."""
    path = DEMO_CHECKPOINT / "tokenizer.json"
    vocab_size = json.loads((DEMO_CHECKPOINT / "config.json").read_text())["vocab_size"]
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


def test_named_special_tokens_and_end_tokens_are_special(tmp_path: Path) -> None:
    """And an added token may be spelled out in the vocabulary."""

    def token(number: int, content: str) -> dict[str, Any]:
        return {"id": number, "content": content, "special": False}

    added = [token(1, "<\uff5cend\uff5c>"), token(2, "<|pad|>"), token(3, "word")]
    vocab = {"a": 0, "<\uff5cend\uff5c>": 1}
    document = {"model": {"type": "BPE", "vocab": vocab}, "added_tokens": added}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    table = read_token_table(tmp_path / "tokenizer.json", 4, {"<|pad|>"}, [1])
    assert table.special.tolist() == [False, True, True, False]
    assert table.data.tobytes().decode() == "a<\uff5cend\uff5c><|pad|>word"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": {"type": "Unigram"}}, "type must be 'BPE', not 'Unigram'"),
        ({"model": {"type": "BPE", "vocab": {"a": 600}}}, "id 600, but must have one below"),
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
        parts.append(infer.infer(inputs)["logits"][0, :, :-1].copy())  # without the alarm
    expected = load_reference(checkpoint).forward(ids[0].tolist())
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=2e-5)
