"""Every input on every entry of the real server: valid values are accepted, wrong ones refused.

The runtime's line in the registry says which it refuses, as in the contract's table.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from contract.descriptions import INPUTS, REFUSED, ROOM, SAMPLING
from contract.write_table import read_configs
from serving.child_server import ServerProcess
from token_engine.registry import RUNTIMES
from tritonclient.grpc import model_config_pb2

from tests.support.triton_calls import Arrays, failure, infer, post, stream

RUNTIME = "openvino"
DTYPES = {"STRING": object, "FP16": np.float16, "FP32": np.float32, "BOOL": np.bool_}
NUMPY = {"UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64, **DTYPES}
NAN, INF = float("nan"), float("inf")
CHAT = b'[{"role": "user", "content": "Hi"}]'
TOOL = b'[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]'

# Other inputs that an input needs to make sense in a request.
COMPANY: dict[str, dict[str, Any]] = {
    "messages": {"text_input": None},
    "tools": {"text_input": None, "messages": CHAT},
    "seed": {"temperature": 0.5},
    "random_seed": {"temperature": 0.5},
    "embedding_bias_words": {"embedding_bias_weights": 1.0},
    "embedding_bias_weights": {"embedding_bias_words": b"yes"},
    "guided_decoding_guide": {"guided_decoding_guide_type": b"regex"},
}
RIGHT: dict[str, Any] = {
    "text_input": b"Hello", "messages": CHAT, "tools": TOOL, "decoder_text_input": b"x",
    "max_tokens": 3, "min_tokens": 2, "min_length": 2, "num_return_sequences": 1, "beam_width": 2,
    "stream": False, "exclude_input_in_output": False, "stop_words": b"zzz",
    "include_stop_str_in_output": True, "bad_words": b"zzz", "end_id": 7, "pad_id": 7,
    "ignore_eos": True, "skip_special_tokens": False, "temperature": 0.5, "top_k": 5, "top_p": 0.5,
    "min_p": 0.25, "seed": 7, "random_seed": 7, "repetition_penalty": 1.5,
    "presence_penalty": 0.5, "frequency_penalty": 0.5, "length_penalty": 2.0,
    "embedding_bias_words": b"yes", "embedding_bias_weights": 1.0,
    "guided_decoding_guide_type": b"json", "guided_decoding_guide": b"[ab]+", "logprobs": 0,
    "return_log_probs": True, "return_context_logits": True, "return_generation_logits": True,
    "return_perf_metrics": True, "return_kv_cache_reuse_stats": True,
    "return_num_input_tokens": True, "return_num_output_tokens": True, "priority": -5,
    "return_token_ids": True,
    "timeout_ms": 60000, "lora_task_id": 0, "lora_weights": np.ones((1, 1, 1), np.float16),
    "lora_config": np.ones((1, 1, 3), np.int32),
    "prompt_embedding_table": np.ones((1, 1, 1), np.float16), "prompt_table_extra_id": 3,
    "prompt_vocab_size": 3, "image_input": np.ones((1, 1, 3, 1, 1), np.float16),
    "image_bytes_input": np.ones((1, 1, 1, 1, 1), np.uint8), "image_url_input": b"http://x",
    "video_bytes_input": np.ones((1, 1, 1, 1, 1), np.uint8), "num_draft_tokens": 1,
    "use_draft_logits": True,
}  # fmt: skip
WRONG: list[tuple[str, Any]] = [
    ("text_input", b""), ("text_input", b"a\xff"), ("text_input", b"long " * 5000),
    ("messages", b""), ("messages", b"\xff"), ("messages", b"{}"), ("messages", b'[{"role":"x"}]'),
    ("tools", b"{"), ("tools", b"[1]"),
    ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 2**31 - 1),
    ("min_tokens", -1), ("min_tokens", 99999), ("min_length", -1),
    ("num_return_sequences", 0), ("num_return_sequences", -1), ("num_return_sequences", 99),
    ("beam_width", 0), ("beam_width", -4), ("stop_words", b"\xff"), ("stop_words", b"x" * 999),
    ("bad_words", b"\xff"), ("bad_words", b"x" * 999), ("end_id", -2),
    ("pad_id", -2), ("temperature", NAN), ("temperature", INF),
    ("temperature", -1.0), ("top_k", -1), ("top_p", NAN), ("top_p", 1.5), ("min_p", -0.5),
    ("min_p", NAN), ("min_p", 2.0), ("repetition_penalty", 0.0), ("repetition_penalty", -1.0),
    ("repetition_penalty", NAN), ("presence_penalty", 9.0), ("presence_penalty", NAN),
    ("frequency_penalty", -9.0), ("frequency_penalty", INF), ("length_penalty", NAN),
    ("embedding_bias_words", b"\xff"), ("embedding_bias_weights", NAN),
    ("guided_decoding_guide_type", b"xml"), ("guided_decoding_guide", b"["),
    ("guided_decoding_guide", b"\xff"), ("logprobs", -1), ("logprobs", 21), ("priority", 1000),
    ("timeout_ms", -1),
]  # fmt: skip
TYPES = {
    tensor.name: model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    for tensor in read_configs()["tensorrt_llm_bls"].input
}
CALLED = {"text_input": "the prompt of"}
ENTRIES = ("stream", "whole", "unary", "generate", "infer")


def request(name: str, value: Any) -> Arrays:
    given = {"text_input": b"Hello", "max_tokens": 3, **COMPANY.get(name, {}), name: value}
    return {name: as_array(name, value) for name, value in given.items() if value is not None}


def as_array(name: str, value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else np.array([[value]], NUMPY[TYPES[name]])


def outcome(server: ServerProcess, entry: str, arrays: Arrays) -> tuple[str, str]:
    """(code, message) of a refusal, ("", text) of an answer."""
    if entry in ("stream", "whole"):
        more = {} if "stream" in arrays else {"stream": np.array([[entry == "stream"]])}
        return failure(lambda: list(stream(server, "ensemble", {**arrays, **more})))
    if entry == "unary":
        return failure(lambda: infer(server, "tensorrt_llm_bls", arrays))
    path = f"/v2/models/tensorrt_llm_bls/{entry}"
    body = as_json(arrays) if entry == "generate" else as_infer_json(arrays)
    status, answer = post(server, path, {**body, "parameters": {"named_errors": True}})
    if status == 200:
        return "", answer
    message = json.loads(answer)["error"]
    if entry == "infer":
        assert {"INVALID_ARG": 400, "UNSUPPORTED": 501}[code_of(message)] == status, message
    return code_of(message), message


def as_json(arrays: Arrays) -> dict[str, Any]:
    return {name: scalar(array) for name, array in arrays.items()}


def as_infer_json(arrays: Arrays) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": {"STRING": "BYTES"}.get(TYPES[name], TYPES[name]),
                "data": [scalar(array)],
            }
            for name, array in arrays.items()
        ]
    }


def scalar(array: Any) -> Any:
    value = array.reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else value.item()


def code_of(message: str) -> str:
    return message.partition("]")[0].rpartition("[")[2]


def sayable(entry: str, value: Any) -> bool:
    """Whether JSON can express the value."""
    if entry in ("stream", "whole", "unary"):
        return True
    if isinstance(value, bytes):
        return b"\xff" not in value
    return not (isinstance(value, np.ndarray) or (isinstance(value, float) and value * 0 != 0))


@pytest.mark.parametrize("name", INPUTS)
def test_a_right_value_is_taken_or_refused_as_the_table_says(
    demo_server: ServerProcess, name: str
) -> None:
    by = INPUTS[name].by
    honoured = by in (ROOM, SAMPLING, *RUNTIMES[RUNTIME].features)
    unary_only = name not in {tensor.name for tensor in read_configs()["ensemble"].input}
    for entry in ENTRIES[2:] if unary_only else ENTRIES:
        if not sayable(entry, RIGHT[name]) or (entry == "stream" and name == "stream"):
            continue
        code, message = outcome(demo_server, entry, request(name, RIGHT[name]))
        assert code == ("" if honoured else "UNSUPPORTED"), (entry, message)
        assert honoured or by != REFUSED or name in message


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{n} {str(v)[:12]}" for n, v in WRONG])
def test_a_wrong_value_is_refused_by_name(
    demo_server: ServerProcess, name: str, value: Any
) -> None:
    for entry in ENTRIES:
        if sayable(entry, value):
            code, message = outcome(demo_server, entry, request(name, value))
            assert code == "INVALID_ARG", (entry, message)
            assert name in message or CALLED.get(name, "-") in message
            assert "Traceback" not in message


def test_every_input_is_in_the_matrix() -> None:
    assert set(RIGHT) == set(INPUTS)
