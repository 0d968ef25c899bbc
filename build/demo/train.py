"""Train the demo model in BF16 and write it as a Hugging Face directory.

Resumable: the state is written every `save_every` steps, aside and then renamed, and a run that
is started again goes on from there. On the CPU and on a GPU the recipe is the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from demo import corpus
from demo.packing import Packed, pack


@dataclass(frozen=True)
class Recipe:
    """Shape and training numbers; the defaults are the shipped checkpoint's."""

    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    initializer_range: float = 0.05
    steps: int = 8000
    rows_per_step: int = 4
    row_length: int = 512  # tokens
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    seed: int = 1

    def with_values(self, assignments: list[str]) -> Recipe:
        """Apply `name=value` pairs; raises ValueError for an unknown name or a bad value."""
        types: dict[str, type] = {
            field.name: float if "float" in str(field.type) else int for field in fields(self)}
        values: dict[str, Any] = {}
        for assignment in assignments:
            name, _, text = assignment.partition("=")
            if name not in types:
                raise ValueError(f"unknown setting {name!r}; known are {', '.join(types)}")
            values[name] = types[name](text)
        return replace(self, **values)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to zero at the last step."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def model_config(recipe: Recipe, vocab_size: int) -> dict[str, Any]:
    """config.json in the spelling of Llama 3.1's (rope_theta and rope_scaling, torch_dtype)."""
    bos = vocab_size - 256
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": [bos + 1, bos + 8, bos + 9],
        "head_dim": recipe.hidden_size // recipe.num_attention_heads,
        "hidden_act": "silu",
        "hidden_size": recipe.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": recipe.intermediate_size,
        # Training never saw positions beyond row_length; the small original context makes the
        # llama3 scaling act within a few dozen tokens, so that losing it shows.
        "max_position_embeddings": 2048,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": recipe.num_attention_heads,
        "num_hidden_layers": recipe.num_hidden_layers,
        "num_key_value_heads": recipe.num_key_value_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 256, "rope_type": "llama3"},
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.55.4",
        "use_cache": True,
        "vocab_size": vocab_size,
    }


def generation_config(vocab_size: int) -> dict[str, Any]:
    """generation_config.json with Llama 3.1's three end ids and sampling defaults."""
    bos = vocab_size - 256
    return {"bos_token_id": bos, "do_sample": True, "eos_token_id": [bos + 1, bos + 8, bos + 9],
            "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.55.4"}


def build_model(recipe: Recipe, vocab_size: int) -> LlamaForCausalLM:
    """A freshly initialized f32 model; the recipe's seed fixes it."""
    torch.manual_seed(recipe.seed)
    values = model_config(recipe, vocab_size)
    config = LlamaConfig(**{**values, "torch_dtype": "float32",
                            "initializer_range": recipe.initializer_range})
    return LlamaForCausalLM(config)


def make_optimizer(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; no decay on norms and embeddings."""
    named = list(model.named_parameters())
    decayed = [value for name, value in named if value.ndim == 2 and "embed" not in name]
    others = [value for name, value in named if value.ndim != 2 or "embed" in name]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay},
              {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def batch_loss(
    model: LlamaForCausalLM, packed: Packed, rows: slice, device: torch.device,
    autocast: bool = True,
) -> torch.Tensor:
    """Mean cross entropy (nats) of the target tokens of these rows; in bf16 with `autocast`."""
    tokens = torch.from_numpy(packed.tokens[rows].astype("int64")).to(device)
    segments = torch.from_numpy(packed.segments[rows]).to(device)
    positions = torch.from_numpy(packed.positions[rows].astype("int64")).to(device)
    targets = torch.from_numpy(packed.targets[rows]).to(device)
    length = tokens.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    same = segments[:, :, None] == segments[:, None, :]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        hidden = model.model(
            input_ids=tokens, position_ids=positions, attention_mask=(same & causal)[:, None],
            use_cache=False).last_hidden_state
        # The head runs on the positions before a target only: about a third of all.
        logits = model.lm_head(hidden[:, :-1][targets[:, 1:]])
    return functional.cross_entropy(logits.float(), tokens[:, 1:][targets[:, 1:]])


def write_model(model: LlamaForCausalLM, recipe: Recipe, directory: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors (bf16)."""
    directory.mkdir(parents=True, exist_ok=True)
    vocab_size = int(model.config.vocab_size)
    contents = {"config.json": model_config(recipe, vocab_size),
                "generation_config.json": generation_config(vocab_size)}
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = {name: value.detach().to("cpu", torch.bfloat16).contiguous()
               for name, value in model.state_dict().items()}
    aside = directory / "model.safetensors.tmp"
    save_file(tensors, str(aside), metadata={"format": "pt"})
    os.replace(aside, directory / "model.safetensors")


def _load_data(tokenizer: Tokenizer, recipe: Recipe, work: Path) -> Packed:
    """The rows of the whole run: from the file of an earlier start, or made now."""
    rows = recipe.steps * recipe.rows_per_step
    path = work / f"rows-{rows}x{recipe.row_length}.npz"
    if not path.exists():
        print(f"train: packing {rows} rows of {recipe.row_length} tokens", flush=True)
        pack(tokenizer, corpus.TRAIN_SEED, rows, recipe.row_length).save(path)
    return Packed.load(path)


def train(
    tokenizer_file: Path, recipe: Recipe, work: Path, output: Path, device: torch.device,
    save_every: int = 500,
) -> None:
    """Run the recipe, or the rest of it, and write the BF16 directory `output`."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    packed = _load_data(tokenizer, recipe, work)
    model = build_model(recipe, tokenizer.get_vocab_size()).to(device)
    optimizer = make_optimizer(model, recipe)
    state_file, first = work / "train-state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        if state["recipe"] != repr(recipe):
            raise ValueError(f"{state_file} belongs to another recipe; remove it to start anew")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"train: going on from step {first}", flush=True)
    started, width = time.perf_counter(), recipe.rows_per_step
    for step in range(first, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        loss = batch_loss(model, packed, slice(step * width, (step + 1) * width), device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done = step + 1
        if done % 100 == 0 or done == recipe.steps:
            rate = (done - first) * width * recipe.row_length / (time.perf_counter() - started)
            print(f"train: step {done}/{recipe.steps} loss {loss.item():.4f} "
                  f"{rate:,.0f} tokens/s", flush=True)
        if done % save_every == 0 or done == recipe.steps:
            aside = state_file.with_suffix(".tmp")
            torch.save({"recipe": repr(recipe), "step": done, "model": model.state_dict(),
                        "optimizer": optimizer.state_dict()}, aside)
            os.replace(aside, state_file)
    write_model(model, recipe, output)


def pick_device(name: str) -> torch.device:
    """`auto` takes the GPU where there is one; raises ValueError for a device that is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no CUDA GPU")
    return torch.device(name)


def main() -> int:
    """Command line: `python -m demo.train --help`, from `build/`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--work", type=Path, required=True, help="directory of the resumable state")
    parser.add_argument("--output", type=Path, required=True, help="BF16 directory to write")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="values",
                        help="change numbers of the recipe")
    arguments = parser.parse_args()
    try:
        recipe = Recipe().with_values(arguments.values)
        device = pick_device(arguments.device)
        train(arguments.tokenizer, recipe, arguments.work, arguments.output, device)
    except (OSError, ValueError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
