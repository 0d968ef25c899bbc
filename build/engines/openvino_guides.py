"""Writes `guides/` in an OpenVINO engine's folder, with which guided decoding needs no tokenizer.

`openvino_detokenizer.*` maps token ids to bytes. From its constants OpenVINO GenAI reads the
vocabulary for matching grammars. Special tokens are empty there, so that they match no text.

`openvino_model.*` is a language model without weights that finds all tokens equally likely. The
engine tries each guide on it, in a separate process, before it uses the guide beside other
requests. It has as many logits as the engine's model, with the alarm, because the library keeps
compiled grammars for one number of logits.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as op

from engines.openvino_graph import ALARMS, graph_input
from engines.token_table import TokenTable

FOLDER = "guides"
MODEL_TYPE = "llama"  # OpenVINO GenAI looks at it for models that need special care


def write_guide_files(table: TokenTable, eos_token_id: int, engine: Path) -> None:
    """Write `engine/guides`."""
    folder = engine / FOLDER
    folder.mkdir()
    logits_size = len(table.special) + ALARMS
    for name, model in (
        ("openvino_detokenizer", _detokenizer(table)),
        ("openvino_model", _indifferent_model(logits_size)),
    ):
        ov.serialize(model, str(folder / f"{name}.xml"), str(folder / f"{name}.bin"))
    config = {"model_type": MODEL_TYPE, "eos_token_id": eos_token_id, "vocab_size": logits_size}
    (folder / "config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
    (folder / "generation_config.json").write_text("{}\n", encoding="utf-8")


def _detokenizer(table: TokenTable) -> ov.Model:
    """Token ids i64 [B, S] -> texts [B]."""
    extension: Any = importlib.import_module("openvino_tokenizers")
    create = extension._get_factory().create
    begins = table.offsets[:-1].astype(np.int32)
    ends = np.where(table.special, begins, table.offsets[1:].astype(np.int32))
    constants = [op.constant(array).output(0) for array in (begins, ends, table.data)]
    ids = op.parameter(ov.PartialShape([-1, -1]), ov.Type.i64, name="token_ids")
    # The library finds this node by its name, and its constants by their places.
    decoder = create("VocabDecoder", [op.convert(ids, "i32").output(0), *constants])
    decoder.set_friendly_name("VocabDecoder")
    *ragged, characters = decoder.outputs()
    joined = create("FuzeRagged", ragged).outputs()
    texts = extension._get_opset_factory("opset15").create(
        "StringTensorPack", [*joined, characters]
    )
    model = ov.Model([texts.output(0)], [ids], "detokenizer")
    model.set_rt_info(extension.__version__, "openvino_tokenizers_version")
    return model


def _indifferent_model(logits_size: int) -> ov.Model:
    """The inputs, states and attention that continuous batching looks for; every logit is 0."""
    ids = graph_input("input_ids", [-1, -1], ov.Type.i64)
    mask = graph_input("attention_mask", [-1, -1], ov.Type.i64)
    positions = graph_input("position_ids", [-1, -1], ov.Type.i64)
    beam_idx = graph_input("beam_idx", [-1], ov.Type.i32)
    shape = op.shape_of(ids)
    zeros = op.multiply(op.convert(op.add(ids, positions), "f32"), op.constant(np.float32(0)))
    hidden = op.unsqueeze(zeros, op.constant(np.array([1, 3])))  # [B, 1 head, S, 1]
    batch = op.gather(shape, op.constant(np.array([0])), op.constant(np.int64(0)))
    empty = op.broadcast(
        op.constant(np.float32(0)), op.concat([batch, op.constant(np.array([1, 0, 1]))], 0)
    )
    assigns = []

    def cached(name: str) -> Any:
        past = op.read_value(empty, name, ov.Type.f32, ov.PartialShape([-1, 1, -1, 1]))
        past = op.gather(past, beam_idx, op.constant(np.int64(0)))
        present = op.concat([past, hidden], 2)
        assigns.append(op.assign(present, name))
        return present

    key, value = cached("past_key_values.0.key"), cached("past_key_values.0.value")
    allowed = op.unsqueeze(op.convert(mask, "f32"), op.constant(np.array([1, 2])))
    bias = op.multiply(allowed, op.constant(np.float32(0)))
    mixed = op.scaled_dot_product_attention(hidden, key, value, bias, op.constant(np.float32(1)))
    column = op.squeeze(mixed, op.constant(np.array([1])))  # [B, S, 1]
    logits = op.broadcast(column, op.concat([shape, op.constant(np.array([logits_size]))], 0))
    logits.output(0).set_names({"logits"})
    parameters = [ids, mask, positions, beam_idx]
    return ov.Model([op.result(logits)], assigns, parameters, "indifferent")
