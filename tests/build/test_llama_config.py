"""config.json and its companions: each number of its type and in its range, else one sentence.

The truth about what a key means is transformers' own `LlamaConfig`, which needs no torch.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checkpoints.llama_config import LlamaConfig, load_llama_config, parse_llama_config, plain_rope
from checkpoints.nvfp4 import check_quantization
from host.console import BuildError
from host.json_document import read_json
from make_checkpoint import SHAPES, quantization_config
from reference import numpy_llama as nvfp4_reference
from transformers import LlamaConfig as TransformersConfig
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

PLAIN: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
    "attention_bias": False, "mlp_bias": False, "rms_norm_eps": 1e-05, **SHAPES["tiny"],
}  # fmt: skip
LLAMA3 = PLAIN["rope_scaling"]
PATH = Path("/somewhere/config.json")
NOT_A_NUMBER: list[Any] = [
    None, True, False, "1e-5", "4096", "", [], [1], {}, {"a": 1}, float("nan"), float("inf"),
    -float("inf"), -1, 0, 10**9, 10**30, -(10**30), 1e300, 1e-300, 4096.0, 0.5,
]  # fmt: skip


def parse(document: dict[str, Any], generation: dict[str, Any] | None = None) -> LlamaConfig:
    return parse_llama_config(PATH, document, generation or {})


def edited(document: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of the document with another value in that place."""
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def places(document: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in document.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from places(value, (*before, key))


def meaning(document: dict[str, Any]) -> dict[str, Any]:
    """transformers' reading of a document; raises what it raises."""
    found = TransformersConfig.from_dict(copy.deepcopy(document))
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
             "rms_norm_eps", "tie_word_embeddings", "bos_token_id")  # fmt: skip
    ends = found.eos_token_id if isinstance(found.eos_token_id, list) else [found.eos_token_id]
    rope: Any = found.rope_parameters
    kept = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    scaling = {key: rope[key] for key in kept} if rope["rope_type"] == "llama3" else None
    values = {name: getattr(found, name) for name in names}
    return {**values, "ends": ends, "theta": rope["rope_theta"], "scaling": scaling}


def as_meaning(config: LlamaConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    names = meaning(PLAIN).keys() - {"ends", "theta", "scaling"}
    return {
        **{name: getattr(config, name) for name in names},
        "ends": list(config.eos_token_ids),
        "theta": config.rope_theta,
        "scaling": None if scaling is None else vars(scaling),
    }


def outcome(read: Callable[[], Any]) -> tuple[Any, str]:
    """The config, or the one sentence that says why it was refused."""
    try:
        return read(), ""
    except BuildError as error:
        sentence = str(error)
    assert sentence
    assert "\n" not in sentence
    assert len(sentence) < 300
    return None, sentence


@pytest.mark.parametrize("place", [*places(PLAIN)], ids=".".join)
def test_any_value_is_refused_in_a_sentence_or_read_as_transformers_does(
    place: tuple[str, ...],
) -> None:
    for value in NOT_A_NUMBER:
        document = edited(PLAIN, place, value)
        found, sentence = outcome(partial(parse, document))
        if sentence:
            assert sentence.startswith(str(PATH)), value
            assert place[0] in sentence or place[0].startswith("num_"), (value, sentence)
        else:
            assert as_meaning(found) == meaning(document), value


@pytest.mark.parametrize("key", [key for key in PLAIN if isinstance(PLAIN[key], (int, float))])
@pytest.mark.parametrize("value", ["1", float("nan"), float("inf"), [], {}, 10**30], ids=repr)
def test_a_number_must_not_be_a_text_a_list_or_infinite(key: str, value: Any) -> None:
    with pytest.raises(BuildError, match=rf"{key} is .*, but must be"):
        parse(edited(PLAIN, (key,), value))


@pytest.mark.parametrize(
    ("key", "least", "most"),
    [
        ("num_hidden_layers", 1, 1024),
        ("hidden_size", 1, 65536),
        ("rms_norm_eps", 1e-12, 0.01),
        ("rope_theta", 1.0, 1e15),
    ],
)
def test_each_range_ends_where_its_message_says(key: str, least: float, most: float) -> None:
    document = {**PLAIN, "rope_scaling": None}
    for value in (least, most):
        if key != "hidden_size":
            parse({**document, key: value})
    for value in (0 if least == 1 else least / 2, most * 2):
        with pytest.raises(BuildError, match=rf"{key} is .* from {re.escape(f'{least:g}')} to "):
            parse({**document, key: value})


def test_a_huge_number_of_layers_is_refused_at_once(tmp_path: Path) -> None:
    """10**9 layers would make 10**10 names of tensors."""
    with pytest.raises(BuildError, match="num_hidden_layers is 1000000000, but must be"):
        parse({**PLAIN, "num_hidden_layers": 10**9})


THETA = {"rope_theta": 5e5}
BARE = {key: value for key, value in LLAMA3.items() if not key.startswith("original")}
ROPE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "theta alone": THETA,
    "theta and scaling": {**THETA, "rope_scaling": LLAMA3},
    "scaling alone": {"rope_scaling": LLAMA3},
    "scaling with its own theta": {"rope_theta": 7e5, "rope_scaling": {**LLAMA3, **THETA}},
    "parameters": {"rope_parameters": {**LLAMA3, **THETA}},
    "parameters and theta": {"rope_theta": 7e5, "rope_parameters": {**LLAMA3, **THETA}},
    "parameters without theta": {"rope_theta": 7e5, "rope_parameters": LLAMA3},
    "all three": {
        "rope_theta": 7e5,
        "rope_parameters": {**LLAMA3, **THETA},
        "rope_scaling": {**LLAMA3, "factor": 32.0},
    },
    "scaling is default": {
        "rope_scaling": {"rope_type": "default"}, "rope_parameters": {**LLAMA3, **THETA},
    },
    "scaling is empty": {"rope_scaling": {}, "rope_parameters": {**LLAMA3, **THETA}},
    "scaling is null": {"rope_scaling": None, "rope_parameters": {**LLAMA3, **THETA}},
    "parameters are empty": {**THETA, "rope_parameters": {}, "rope_scaling": LLAMA3},
    "parameters are null": {**THETA, "rope_parameters": None, "rope_scaling": LLAMA3},
    "both empty": {**THETA, "rope_parameters": {}, "rope_scaling": {}},
    "the old name of the type": {
        "rope_scaling": {**{k: v for k, v in LLAMA3.items() if k != "rope_type"}, "type": "llama3"}
    },
    "both names of the type": {"rope_scaling": {**LLAMA3, "type": "llama3"}},
    "default with a factor": {"rope_scaling": {"rope_type": "default", "factor": 4.0}},
    "no original length": {**THETA, "rope_scaling": BARE},
    "theta is null where another counts": {"rope_theta": None, "rope_parameters": THETA},
    "whole heads are rotated": {**THETA, "partial_rotary_factor": 1.0},
    "whole numbers": {"rope_theta": 500000, "rope_scaling": {**LLAMA3, "factor": 8}},
}  # fmt: skip


def with_rope(rope: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in PLAIN.items() if not key.startswith("rope_")}
    return {**plain, **rope}


@pytest.mark.parametrize("name", ROPE)
def test_rotary_embedding_is_merged_as_transformers_does(name: str) -> None:
    document = with_rope(ROPE[name])
    config = parse(document)
    assert as_meaning(config) == meaning(document)
    # The engine's folder and the reference read the same.
    assert meaning({**with_rope({}), **plain_rope(config)}) == meaning(document)
    expected = nvfp4_reference.rope_frequencies({**with_rope({}), **plain_rope(config)})
    assert (nvfp4_reference.rope_frequencies(document) == expected).all()


BAD_ROPE: dict[str, tuple[dict[str, Any], str]] = {
    **{
        kind: ({"rope_scaling": {"rope_type": kind, "factor": 2.0}}, f"rope_type is '{kind}'")
        for kind in ("linear", "dynamic", "yarn", "longrope", "proportional", "mrope", "Llama3")
    },
    "su, by the old name": ({"rope_scaling": {"type": "su"}}, r"rope_scaling\.type is 'su'"),
    "no type": ({"rope_scaling": {**LLAMA3, "rope_type": None}}, "rope_type is null"),
    "two types": (
        {"rope_scaling": {**LLAMA3, "type": "default"}},
        r"rope_scaling\.type is 'default', but must be 'llama3', as rope_type says",
    ),
    "half a rotation": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, but must"),
    "half a rotation inside": (
        {"rope_parameters": {**LLAMA3, "partial_rotary_factor": 0.25}},
        r"rope_parameters\.partial_rotary_factor is 0\.25",
    ),
    "a rotation for each kind of layer": (
        {"rope_parameters": {"full_attention": LLAMA3}},
        r"rope_parameters\.full_attention is .* but must be absent",
    ),
    "one factor for both": (
        {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
        r"high_freq_factor is 1\.0, but must be above low_freq_factor 1",
    ),
    "two original lengths": (
        {"rope_scaling": LLAMA3, "original_max_position_embeddings": 1024},
        "original_max_position_embeddings is 1024, but must be 8192, as in rope_scaling",
    ),
    "a list": ({"rope_scaling": [1]}, r"rope_scaling is \[1\], but must be an object"),
    "a text": ({"rope_parameters": "llama3"}, "rope_parameters is 'llama3', but must be an object"),
    "false": ({"rope_scaling": False}, "rope_scaling is false, but must be an object"),
    "theta is null": ({"rope_theta": None}, "rope_theta is null, but must be a number, or absent"),
    "theta is null inside": (
        {"rope_theta": 1e4, "rope_parameters": {"rope_theta": None}},
        r"rope_parameters\.rope_theta is null",
    ),
}


@pytest.mark.parametrize("name", BAD_ROPE)
def test_another_rotary_embedding_is_refused_by_name(name: str) -> None:
    rope, expected = BAD_ROPE[name]
    with pytest.raises(BuildError, match=expected):
        parse(with_rope(rope))


OTHER_MODELS: dict[str, Any] = {
    "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.5,
    "logits_scaling": 8.0, "logit_scale": 0.0625, "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 256, "use_qk_norm": True,
    "qk_layernorm": True, "clip_qkv": 8.0, "sliding_window": 128, "num_local_experts": 8,
    "no_rope_layers": [1, 0], "layer_types": ["full_attention", "sliding_attention"],
    "scale_emb": 12, "rotary_dim": 8, "rope_interleaved": True, "attention_bias": True,
    "mlp_bias": True, "hidden_act": "gelu", "num_experts_per_tok": 2, "lm_head_bias": True,
    "architectures": ["LlamaForSequenceClassification"], "mup_width_multiplier": 2.0,
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER_MODELS)
def test_a_key_that_makes_another_model_is_refused_by_name(key: str) -> None:
    with pytest.raises(BuildError, match=f"json: {key} is .*, but must be"):
        parse({**PLAIN, key: OTHER_MODELS[key]})


@pytest.mark.parametrize(
    "harmless",
    [
        {"embedding_multiplier": 1.0, "logits_scaling": 1, "use_qk_norm": False},
        {"attention_multiplier": 0.25},  # 1 / sqrt(head_dim), a Llama's own
        {"sliding_window": None, "use_sliding_window": False, "max_window_layers": 28},
        {"sliding_window": 4096, "layer_types": ["full_attention"] * 2},
        {"sliding_window": 128, "use_sliding_window": False},
        {"final_logit_softcapping": None, "no_rope_layers": [1, 1], "num_local_experts": 0},
        {"attention_dropout": 0.1, "initializer_range": 0.02, "_attn_implementation": "sdpa"},
        {"pretraining_tp": 2, "use_cache": False, "unsloth_fixed": True, "pad_token_id": -1},
        {"head_dim": None, "num_key_value_heads": 2, "torch_dtype": "float16"},
    ],
    ids=lambda document: next(iter(document)),
)
def test_keys_that_change_nothing_are_accepted(harmless: dict[str, Any]) -> None:
    assert parse({**PLAIN, **harmless}) == parse(PLAIN)


def test_a_head_dim_that_does_not_divide_is_not_guessed() -> None:
    document = {**PLAIN, "hidden_size": 80, "num_attention_heads": 6, "num_key_value_heads": 2}
    with pytest.raises(BuildError, match="hidden_size is 80, but without head_dim must be a mult"):
        parse({**document, "head_dim": None})


@pytest.mark.parametrize(
    "ids", ["1", True, -1, 512, [1, "2"], [[1]], [1, 512], {}, 1.0, list(range(257))], ids=repr
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_end_ids_are_token_ids_and_their_file_is_named(ids: Any, name: str) -> None:
    documents = {"config.json": dict(PLAIN), "generation_config.json": {"eos_token_id": 1}}
    documents[name]["eos_token_id"] = ids
    with pytest.raises(BuildError, match=f"/{name}: eos_token_id is .*, but must be a token id"):
        parse(documents["config.json"], documents["generation_config.json"])


FILES: dict[str, tuple[bytes, str]] = {
    "a list": (b"[]", r"is \[\], but must be a JSON object"),
    "a text": (b'"x"', "is 'x', but must be a JSON object"),
    "null": (b"null", "is null, but must be a JSON object"),
    "a number": (b"NaN", "is NaN, but must be a JSON object"),
    "nothing": (b"", "is not valid JSON"),
    "cut off": (b'{"model_type": "lla', "is not valid JSON .*correct it, or fetch it again"),
    "byte order mark": (b"\xef\xbb\xbf{}", "begins with a byte order mark, .*; save it"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "is not valid JSON"),
    "not UTF-8": (b'{"model_type": "\xff"}', "is not valid JSON .*utf-8"),
    "a key twice": (
        b'{"rms_norm_eps": 1e-5, "rms_norm_eps": 1e-6}',
        "the key 'rms_norm_eps' appears twice, as 1e-05 and 1e-06",
    ),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested deeper than 64 levels"),
    "deeper than can be": (b'{"a":' * 70 + b"1" + b"}" * 70, "is nested deeper than 64 levels"),
    "NaN inside": (b'{"a": {"b": [1, NaN]}}', r"json: a\.b\.1 is NaN, but must be a finite number"),
    "infinite": (b'{"unknown": 1e999}', "json: unknown is Infinity, but must be a finite number"),
    "boundless": (b'{"a": 1' + b"0" * 400 + b"}", "json: a is a number of 1329 bits, but must"),
    "more digits than Python reads": (b'{"a": 1' + b"0" * 9000 + b"}", "is not valid JSON"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PLAIN))
    content, expected = FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(BuildError, match=expected) as error:
        load_llama_config(tmp_path)
    assert str(error.value).startswith(str(tmp_path / file))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_key_repeated_with_the_same_value_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1, "a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_the_number_that_transformers_writes_for_no_limit_is_accepted(tmp_path: Path) -> None:
    """transformers writes it for every tokenizer without a length limit."""
    no_limit = {"model_max_length": VERY_LARGE_INTEGER}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(no_limit))
    assert read_json(tmp_path / "tokenizer_config.json") == no_limit


QUANTIZATION = {"producer": {"name": "modelopt"}, "quantization": {
    "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16,
    "exclude_modules": ["lm_head"]}}  # fmt: skip


def quantized(folder: Path, config: Any, quantization: Any) -> Path:
    document = {**PLAIN, "quantization_config": config}
    (folder / "config.json").write_text(json.dumps(document))
    if quantization is not None:
        (folder / "hf_quant_config.json").write_text(json.dumps(quantization))
    return folder


@pytest.mark.parametrize("place", [*places(QUANTIZATION)], ids=".".join)
def test_any_value_in_hf_quant_config_is_a_sentence_or_harmless(
    tmp_path: Path, place: tuple[str, ...]
) -> None:
    for value in ["x", "", [], [1], {}, {"a": 1}, None, True, 16.0, "16", 32, -1, float("nan")]:
        folder = quantized(tmp_path, quantization_config(), edited(QUANTIZATION, place, value))
        harmless = place[0] == "producer" or place[-1] in ("kv_cache_quant_algo", "exclude_modules")
        _, sentence = outcome(partial(check_quantization, folder))
        if sentence:
            assert place[-1] in sentence or "quant_algo" in sentence, (value, sentence)
        else:
            assert harmless or (place[-1] == "group_size" and value is None), value


@pytest.mark.parametrize("place", [*places(quantization_config())], ids=".".join)
def test_any_value_in_quantization_config_is_refused_or_harmless(
    tmp_path: Path, place: tuple[str, ...]
) -> None:
    values: list[Any] = ["modelopt", "", [], [1], {}, None, True, 16.0, "16", 32, float("inf")]
    for value in values:
        folder = quantized(tmp_path, edited(quantization_config(), place, value), None)
        _, sentence = outcome(partial(check_quantization, folder))
        assert not sentence or sentence.startswith(str(folder / "config.json"))


@pytest.mark.parametrize("value", ["modelopt", [], [1], 5, True], ids=repr)
def test_quantization_config_must_be_an_object(tmp_path: Path, value: Any) -> None:
    for quantization in (None, QUANTIZATION):
        folder = quantized(tmp_path, value, quantization)
        with pytest.raises(BuildError, match=r"config is .*, but must be an object"):
            check_quantization(folder)


def test_two_files_with_different_quantizations_are_refused(tmp_path: Path) -> None:
    """TensorRT-LLM reads one file, vLLM the other."""
    config = {**quantization_config(), "quant_algo": "FP8"}
    folder = quantized(tmp_path, config, QUANTIZATION)
    with pytest.raises(BuildError, match=r"config\.json: quantization_config\.quant_algo is 'FP8'"):
        check_quantization(folder)
