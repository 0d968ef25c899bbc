"""What transformers answers for unusual configs is what the reference and the graph compute."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints.nvfp4 import open_checkpoint
from reference.numpy_llama import ReferenceLlama, load_checkpoint
from reference.streamed import StreamedLlama

from tests.support.recorded_models import CONFIGS, KEPT_LOGITS, PROMPT, RECORDED, write_model
from tests.support.small_engines import OPENVINO as ov
from tests.support.small_engines import build_engine, write_tokenizer

LOGITS = json.loads(RECORDED.read_text())["logits"]
TOLERANCE = 2e-5  # f32 in another order


@pytest.mark.parametrize("name", CONFIGS)
def test_reference_and_graph_compute_what_transformers_recorded(tmp_path: Path, name: str) -> None:
    from engines.openvino_graph import (
        build_graph,  # after small_engines' import of OpenVINO
        with_alarm,
    )

    folder = write_model(tmp_path / "model", name)
    expected = np.array(LOGITS[name])
    found = ReferenceLlama(load_checkpoint(folder)).forward(PROMPT)[-1, :KEPT_LOGITS]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    streamed = StreamedLlama(folder, 1)
    found = streamed.logits(streamed.hidden_states([PROMPT])[0])[-1, :KEPT_LOGITS]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    checkpoint = with_alarm(open_checkpoint(folder))
    model = build_graph(checkpoint, 64)
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ids = np.array([PROMPT], np.int64)
    inputs = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(len(PROMPT))[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    found = compiled.create_infer_request().infer(inputs)["logits"][0, -1, :KEPT_LOGITS]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_the_engines_config_says_what_was_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The GPU runtimes read it with whichever transformers they have, and tie by the flag."""
    folder = write_model(tmp_path / "model", "tied, another head stored")
    write_tokenizer(folder)
    engine = build_engine(folder, tmp_path / "engine", "--max-seq-len", "64")
    assert "warning: " in capsys.readouterr().out
    config = json.loads((engine / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert (config["rope_theta"], config["rope_scaling"]) == (5e5, None)


def test_theta_of_parameters_is_found_by_older_versions_too(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "parameters")
    write_tokenizer(folder)
    engine = build_engine(folder, tmp_path / "engine", "--max-seq-len", "64")
    config = json.loads((engine / "config.json").read_text())
    assert "rope_parameters" not in config
    assert config["rope_theta"] == 100.0
    assert config["rope_scaling"]["rope_type"] == "llama3"
