"""Train the demo model in BF16 and write it as a Hugging Face directory.

The state is saved every `save_every` steps, and a run that is started again goes on from there. The
recipe is the same on a CPU and on a GPU.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from host.console import BuildError
from quantization.torch_checkpoint import Llama
from reference.prompts import load_tokenizer
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from demo import corpus
from demo.packing import Packed, concatenate, pack
from demo.shape import Recipe, generation_config, model_config


def build_model(recipe: Recipe, vocab_size: int) -> Llama:
    """A freshly initialized f32 model; the recipe's seed fixes it."""
    torch.manual_seed(recipe.seed)
    values = model_config(recipe, vocab_size)
    config = LlamaConfig(
        **{**values, "torch_dtype": "float32", "initializer_range": recipe.initializer_range}
    )
    factory: Any = LlamaForCausalLM
    return factory(config)


def make_optimizers(model: Llama, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, head and norms.

    With Muon the model needs about half the tokens that it needs with AdamW alone.
    """
    named = list(model.named_parameters())
    matrices = [value for name, value in named if value.ndim == 2 and ".layers." in name]
    others = [value for name, value in named if value.ndim != 2 or ".layers." not in name]
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            momentum=0.95,
            ns_steps=5,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
    ]


def batch_loss(
    model: Llama,
    packed: Packed,
    rows: slice,
    device: torch.device,
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
            input_ids=tokens,
            position_ids=positions,
            attention_mask=(same & causal)[:, None],
            use_cache=False,
        ).last_hidden_state
        # The head runs on the positions before a target only: about a third of all.
        logits = model.lm_head(hidden[:, :-1][targets[:, 1:]])
    return functional.cross_entropy(logits.float(), tokens[:, 1:][targets[:, 1:]])


def write_model(model: Llama, recipe: Recipe, directory: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors (bf16)."""
    directory.mkdir(parents=True, exist_ok=True)
    vocab_size = int(model.config.vocab_size)
    contents = {
        "config.json": model_config(recipe, vocab_size),
        "generation_config.json": generation_config(vocab_size),
    }
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
    }
    aside = directory / "model.safetensors.tmp"
    save_file(tensors, str(aside), metadata={"format": "pt"})
    os.replace(aside, directory / "model.safetensors")


def _load_data(tokenizer: Tokenizer, recipe: Recipe, work: Path) -> Packed:
    """The rows of the whole run: read if an earlier run packed them, else made."""
    parts: list[Packed] = []
    for name, seed, steps, share in (
        ("rows", corpus.TRAIN_SEED, recipe.steps, 0.0),
        ("drill-rows", corpus.DRILL_SEED, recipe.drill_steps, recipe.drill_share),
    ):
        rows = steps * recipe.rows_per_step
        path = work / f"{name}-{rows}x{recipe.row_length}.npz"
        if not path.exists():
            print(f"train: packing {rows} rows of {recipe.row_length} tokens", flush=True)
            pack(tokenizer, seed, rows, recipe.row_length, share).save(path)
        parts.append(Packed.load(path))
    return concatenate(*parts)


@dataclass
class Run:
    """An unfinished training run."""

    recipe: Recipe
    model: Llama
    optimizers: list[torch.optim.Optimizer]
    step: int = 0  # steps done

    def resume(self, path: Path, device: torch.device) -> None:
        """Load the state in `path`; raises `BuildError` if it belongs to another recipe."""
        state = torch.load(path, map_location=device, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise BuildError(f"{path} belongs to another recipe; remove it to start anew")
        self.model.load_state_dict(state["model"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.step = state["step"]

    def save(self, path: Path) -> None:
        """Write aside, then rename, so that a killed run keeps its last whole state."""
        state = {
            "recipe": repr(self.recipe),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        aside = path.with_suffix(".tmp")
        torch.save(state, aside)
        os.replace(aside, path)

    def advance(self, packed: Packed, device: torch.device) -> torch.Tensor:
        """One step on the next rows; returns the loss, f32 [] on the device."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate_at(self.step)
        width = self.recipe.rows_per_step
        rows = slice(self.step * width, (self.step + 1) * width)
        loss = batch_loss(self.model, packed, rows, device)
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return loss.detach()


def train(
    tokenizer_file: Path,
    recipe: Recipe,
    work: Path,
    output: Path,
    device: torch.device,
    save_every: int = 250,
) -> None:
    """Run the rest of the recipe and write the BF16 folder `output`; raises `BuildError`."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(tokenizer_file.parent)
    packed = _load_data(tokenizer, recipe, work)
    model = build_model(recipe, tokenizer.get_vocab_size()).to(device)
    run = Run(recipe, model, make_optimizers(model, recipe))
    state_file = work / "train-state.pt"
    if state_file.exists():
        run.resume(state_file, device)
        print(f"train: going on from step {run.step}", flush=True)
    started, first = time.perf_counter(), run.step
    losses: list[torch.Tensor] = []
    while run.step < recipe.total_steps:
        losses = [*losses[-99:], run.advance(packed, device)]
        last = run.step == recipe.total_steps
        if run.step % 100 == 0 or last:
            tokens = (run.step - first) * recipe.rows_per_step * recipe.row_length
            print(
                f"train: step {run.step}/{recipe.total_steps} "
                f"loss {torch.stack(losses).mean():.4f} "
                f"{tokens / (time.perf_counter() - started):,.0f} tokens/s",
                flush=True,
            )
        if run.step % save_every == 0 or last:
            run.save(state_file)
    write_model(model, recipe, output)
