"""Small checkpoints with unusual configs, and transformers' answers.

`recorded_models.json` holds the answers: the logits after the prompt's last token, from
`LlamaForCausalLM` in f32 on the dequantized weights. To record them anew, with torch installed:

    python -m tests.support.recorded_models
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from make_checkpoint import SHAPES, make_checkpoint
from reference.numpy_llama import load_checkpoint

RECORDED = Path(__file__).with_suffix(".json")
PROMPT = np.random.default_rng(5).integers(4, 512, 40).tolist()
KEPT_LOGITS = 24
# Scaling that changes the logits of a prompt of 40 tokens.
LLAMA3 = {**SHAPES["tiny"]["rope_scaling"], "original_max_position_embeddings": 16}
BARE = {key: value for key, value in LLAMA3.items() if not key.startswith("original")}
THETA = {"rope_theta": 5e5}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

# Name -> keys of config.json in place of the rotary embedding's own, and which matrices are stored.
CONFIGS: dict[str, dict[str, Any]] = {
    "nothing said": {},
    "theta alone": {"rope_theta": 100.0},
    "scaling": {**THETA, "rope_scaling": LLAMA3},
    "parameters": {"rope_parameters": {**LLAMA3, "rope_theta": 100.0}},
    "parameters and theta": {"rope_theta": 5e5, "rope_parameters": {**LLAMA3, "rope_theta": 100.0}},
    "all three": {
        "rope_theta": 100.0,
        "rope_scaling": {**LLAMA3, "factor": 2.0},
        "rope_parameters": {**LLAMA3, **THETA},
    },
    "scaling is empty": {"rope_scaling": {}, "rope_parameters": {**LLAMA3, "rope_theta": 100.0}},
    "no original length": {"rope_theta": 100.0, "rope_scaling": BARE},
    "tied": {**THETA, "tie_word_embeddings": True, "stored": [EMBEDDING]},
    "tied, another head stored": {
        **THETA, "tie_word_embeddings": True, "stored": [EMBEDDING, HEAD],
    },
    "tied, the head stored": {**THETA, "tie_word_embeddings": True, "stored": [HEAD]},
}  # fmt: skip


def write_model(folder: Path, name: str) -> Path:
    """The checkpoint of that name: the same weights for all of them."""
    changes = dict(CONFIGS[name])
    stored = changes.pop("stored", [EMBEDDING, HEAD])
    make_checkpoint(folder, {**SHAPES["tiny"], "max_position_embeddings": 64}, 3, 2**40)
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in config.items() if not key.startswith("rope_")}
    (folder / "config.json").write_text(json.dumps({**kept, **changes}))
    _leave_out(folder / "model.safetensors", {EMBEDDING, HEAD} - set(stored))
    return folder


def _leave_out(path: Path, names: set[str]) -> None:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = {}
    content = b""
    for name, entry in json.loads(data[8:end]).items():
        if name not in names and name != "__metadata__":
            begin, stop = entry["data_offsets"]
            start, content = len(content), content + data[end + begin : end + stop]
            header[name] = {**entry, "data_offsets": [start, len(content)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def _answer(folder: Path) -> list[float]:
    """transformers' logits with the folder's config and its dequantized weights."""
    import torch  # type: ignore[import-not-found, unused-ignore]
    from safetensors.numpy import save_file
    from transformers import LlamaForCausalLM

    save_file(load_checkpoint(folder).weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    factory: Any = LlamaForCausalLM
    with torch.inference_mode():
        logits = factory.from_pretrained(folder).eval()(torch.tensor([PROMPT])).logits[0, -1]
    return [round(float(value), 6) for value in logits[:KEPT_LOGITS]]


def main() -> None:
    """Write the file."""
    import transformers

    answers = {}
    for name in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            answers[name] = _answer(write_model(Path(folder) / "model", name))
    document = {"transformers": transformers.__version__, "logits": answers}
    RECORDED.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
