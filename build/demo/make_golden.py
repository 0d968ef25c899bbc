"""Writes golden/greedy.json: what transformers computes in f32 on the dequantized checkpoint.

Prompts on which the two best tokens come closer than `MIN_MARGIN` logits at any step are left
out, so that any correct f32 engine must give exactly these tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from host.console import run_script, say
from quantization.torch_checkpoint import Llama
from reference.prompts import load_tokenizer
from tokenizers import Tokenizer

from demo import corpus
from demo.evaluate import load_model
from demo.questions import KINDS

MIN_MARGIN = 1e-2  # logits between the best and the second token, at every step
SEED = 2024


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt and its limit of new tokens."""

    name: str
    text: str
    max_new_tokens: int
    messages: tuple[corpus.Message, ...] | None = None  # None: a raw text


def chat_prompt(name: str, messages: tuple[corpus.Message, ...], limit: int = 64) -> Prompt:
    """A prompt rendered by the chat template."""
    return Prompt(name, corpus.render_prompt(messages), limit, messages)


def user(*turns: str) -> tuple[corpus.Message, ...]:
    """Alternating user and assistant messages, the user's first and last."""
    roles = ("user", "assistant")
    return tuple(corpus.message(roles[index % 2], text) for index, text in enumerate(turns))


def long_chat(rng: Random, characters: int) -> tuple[corpus.Message, ...]:
    """Short exchanges of about this many characters, then one more question."""
    turns: list[str] = []
    while sum(map(len, turns)) < characters:
        exchange = corpus.draw_short(rng)
        turns += [exchange.question, exchange.answer]
    return user(*turns, "What is the capital of Japan?")


def candidates() -> list[Prompt]:
    """More prompts than are needed: some are dropped for their margins."""
    rng = Random(SEED)
    prompts = [
        Prompt(f"raw-{index}", corpus.BOS + text, 64)
        for index, (text, _) in enumerate(corpus.raw_prompts())
    ]
    for kind, (sampler, _) in KINDS.items():
        limit = 160 if "story" in kind else 64
        for index in range(2):
            prompts.append(chat_prompt(f"{kind}-{index}", user(sampler(rng).question), limit))
    system = corpus.message("system", "Answer in one word.")
    prompts += [
        chat_prompt("unicode-repeat", user("Repeat after me: 猫 🚀 água 👍🏽 привет")),
        chat_prompt("system-one-word", (system, *user("What is the capital of France?"))),
        chat_prompt(
            "multi-turn",
            user(
                "What is the capital of Italy?",
                "The capital of Italy is Rome.",
                "What is the opposite of hot?",
            ),
        ),
        chat_prompt(
            "memory", user("My name is Clara.", "Nice to meet you, Clara!", "What is my name?")
        ),
        Prompt(
            "no-system-block",
            corpus.render_prompt(user("What does a cow say?"), system_block=False),
            64,
        ),
    ]
    for index in range(4):
        prompts.append(chat_prompt(f"long-{index}", long_chat(rng, 1000 + 200 * index)))
    return prompts


def greedy(model: Llama, ids: list[int], limit: int) -> tuple[list[int], float, torch.Tensor]:
    """(tokens, smallest margin in logits, first step's log probabilities [vocab])."""
    ends, tokens, margin = model.config.eos_token_id, list[int](), float("inf")
    cache, fed, first = None, torch.tensor([ids]), torch.empty(0)
    while len(tokens) < limit:
        with torch.inference_mode():
            output = model(input_ids=fed, past_key_values=cache, use_cache=True)
        logits, cache = output.logits[0, -1], output.past_key_values
        best = logits.topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        if not tokens:
            first = logits.log_softmax(-1)
        tokens.append(int(best.indices[0]))
        if tokens[-1] in ends:
            break
        fed = torch.tensor([[tokens[-1]]])
    return tokens, margin, first


def make_entry(model: Llama, tokenizer: Tokenizer, prompt: Prompt) -> dict[str, Any] | None:
    """One prompt's record, or None if a margin is too small."""
    ids = tokenizer.encode(prompt.text, add_special_tokens=False).ids
    tokens, margin, first = greedy(model, ids, prompt.max_new_tokens)
    if margin < MIN_MARGIN:
        return None
    top = first.topk(5)
    return {
        "name": prompt.name,
        "messages": prompt.messages,
        "prompt": prompt.text,
        "prompt_ids": ids,
        "max_new_tokens": prompt.max_new_tokens,
        "tokens": tokens,
        "finish_reason": "stop" if tokens[-1] in model.config.eos_token_id else "length",
        "text": tokenizer.decode(tokens, skip_special_tokens=True),
        "min_margin": round(margin, 4),
        "first_top_logprobs": [
            [int(token), round(float(value), 5)]
            for value, token in zip(top.values, top.indices, strict=True)
        ],
    }


def make_golden(directory: Path, path: Path) -> int:
    """Write the file; returns the number of prompts."""
    model = load_model(directory, torch.device("cpu"), activations=False)
    tokenizer = load_tokenizer(directory)
    entries = [make_entry(model, tokenizer, prompt) for prompt in candidates()]
    kept = [entry for entry in entries if entry is not None]
    weights = (directory / "model.safetensors").read_bytes()
    content = {
        "about": "Greedy tokens of transformers' LlamaForCausalLM in f32 on the dequantized "
        "weights, KV cache in f32, activations not quantized. An end token is the last of "
        f"`tokens`. At every step the best token leads by at least {MIN_MARGIN} logits.",
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
        "model_sha256": hashlib.sha256(weights).hexdigest(),
        "eos_ids": model.config.eos_token_id,
        "prompts": kept,
    }
    lines = json.dumps(content, ensure_ascii=False, indent=None, separators=(", ", ": "))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines.replace('{"name"', '\n{"name"') + "\n", encoding="utf-8")
    return len(kept)


def main() -> None:
    """The command line's entry: `python -m demo.make_golden`."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=here / "checkpoint")
    parser.add_argument("--output", type=Path, default=here / "golden" / "greedy.json")
    options = parser.parse_args()
    checkpoint: Path = options.checkpoint
    output: Path = options.output
    say(f"{make_golden(checkpoint, output)} prompts in {output}")


if __name__ == "__main__":
    run_script(main)
