"""Measure a checkpoint of the demo model: exact answers per kind, and perplexity.

Three variants: the BF16 weights, NVFP4 weights with f32 activations (W4A16, what a CPU runs) and
NVFP4 weights and activations (W4A4, what a Blackwell GPU runs; the FP8 KV cache is left out).
All other arithmetic is f32, so that the variants differ in the quantization alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from host.console import BuildError, at_least_1, run_script
from quantization.device import DEVICES, pick_device
from quantization.torch_checkpoint import Llama, StoredWeights, transformers_config
from reference.prompts import load_tokenizer
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from demo import corpus
from demo.packing import pack
from demo.shape import Recipe
from demo.train import batch_loss

# Documents that packing drew for the two parts of the shipped checkpoint's training.
GENERAL_DOCUMENTS, DRILL_DOCUMENTS = 53_395, 18_548
MAX_NEW_TOKENS, MAX_SHORT_TOKENS = 400, 100  # of stories, and of all other answers
BATCH = 32
PERPLEXITY_ROWS = 64


@dataclass(frozen=True)
class Score:
    """One variant's results."""

    variant: str
    exact: dict[str, float]  # kind -> share of right answers
    perplexity: float  # of the answers' tokens in held-out documents

    @property
    def total(self) -> float:
        """Mean over the kinds, which all have the same number of questions."""
        return sum(self.exact.values()) / len(self.exact)


def load_model(directory: Path, device: torch.device, activations: bool) -> Llama:
    """The dequantized model in f32; with `activations`, quantized linears round their inputs."""
    stored = StoredWeights(directory, device)
    factory: Any = LlamaForCausalLM
    model = factory(transformers_config(directory, "float32")).eval().to(device)
    model.load_state_dict({name: stored.weight(name) for name in model.state_dict()})
    if activations:
        stored.round_inputs(model)
    return model


def answers(
    model: Llama, tokenizer: Tokenizer, prompts: list[str], max_new_tokens: int
) -> list[str]:
    """Greedy answers to rendered prompts, in their order; special tokens are left out."""
    ids = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
    ends, pad = model.config.eos_token_id, model.config.eos_token_id[0]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    texts = [""] * len(ids)
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        width = max(len(ids[index]) for index in part)
        padded = torch.tensor([[pad] * (width - len(ids[i])) + ids[i] for i in part])
        mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in part])
        with torch.inference_mode():
            output = model.generate(
                padded.to(model.device),
                attention_mask=mask.to(model.device),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=ends,
                pad_token_id=pad,
            )
        for index, row in zip(part, output[:, width:].tolist(), strict=True):
            texts[index] = tokenizer.decode(row, skip_special_tokens=True)
    return texts


def exact_match(
    model: Llama, tokenizer: Tokenizer, per_kind: int, wrong: list[str]
) -> dict[str, float]:
    """Share of right answers per kind; wrong ones are described in `wrong`."""
    chats = corpus.evaluation_chats(corpus.EVAL_SEED, per_kind)
    right: dict[str, list[bool]] = defaultdict(list)
    for stories in (False, True):  # apart, so that long answers do not delay batches of short ones
        part = [chat for chat in chats if ("story" in chat.kind) == stories]
        prompts = [corpus.render_prompt(chat.messages) for chat in part]
        limit = MAX_NEW_TOKENS if stories else MAX_SHORT_TOKENS
        for chat, text in zip(part, answers(model, tokenizer, prompts, limit), strict=True):
            right[chat.kind].append(text == chat.answer)
            if text != chat.answer:
                question = chat.messages[-1]["content"]
                wrong.append(f"{chat.kind}: {question!r} -> {text!r}, not {chat.answer!r}")
    prompts = [corpus.BOS + prompt for prompt, _ in corpus.raw_prompts()]
    for (prompt, texts), text in zip(
        corpus.raw_prompts(), answers(model, tokenizer, prompts, MAX_SHORT_TOKENS), strict=True
    ):
        right["raw"].append(text in texts)
        if text not in texts:
            wrong.append(f"raw: {prompt!r} -> {text!r}")
    return {kind: sum(results) / len(results) for kind, results in right.items()}


def perplexity(model: Llama, tokenizer: Tokenizer) -> float:
    """Perplexity of the answer tokens in held-out documents, in rows of 512 tokens."""
    rows = PERPLEXITY_ROWS
    packed = pack(tokenizer, corpus.EVAL_SEED + 1, rows, 512)
    losses, counts = [], []
    for row in range(rows):
        part = slice(row, row + 1)
        with torch.inference_mode():
            losses.append(float(batch_loss(model, packed, part, model.device, autocast=False)))
        counts.append(int(packed.targets[part, 1:].sum()))
    total = sum(loss * count for loss, count in zip(losses, counts, strict=True))
    return math.exp(total / sum(counts))


def evaluate(
    directory: Path, variant: str, device: torch.device, per_kind: int, wrong: list[str]
) -> Score:
    """Measure one directory; `variant` "NVFP4 W4A4" rounds the activations too."""
    tokenizer = load_tokenizer(directory)
    model = load_model(directory, device, activations=variant == "NVFP4 W4A4")
    exact = exact_match(model, tokenizer, per_kind, wrong)
    return Score(variant, exact, perplexity(model, tokenizer))


def seen_share(per_kind: int) -> dict[str, float]:
    """Per kind, the share of the evaluation's questions that the training text holds verbatim.

    A single question is looked up as such; a longer chat as a whole prompt.
    """
    questions: set[str] = set()
    opening = corpus.render_header("user")
    general = itertools.islice(corpus.documents(corpus.TRAIN_SEED), GENERAL_DOCUMENTS)
    drills = corpus.documents(corpus.DRILL_SEED, Recipe().drill_share)
    for text in itertools.chain(general, itertools.islice(drills, DRILL_DOCUMENTS)):
        questions.add(text[: text.rfind(corpus.render_header("assistant"))])
        questions.update(part.split(corpus.EOT)[0] for part in text.split(opening)[1:])
    seen: dict[str, list[bool]] = defaultdict(list)
    for chat in corpus.evaluation_chats(corpus.EVAL_SEED, per_kind):
        prompt = corpus.render_prompt(chat.messages)
        whole = prompt[: prompt.rfind(corpus.render_header("assistant"))]
        key = whole if len(chat.messages) > 1 else chat.messages[0]["content"]
        seen[chat.kind].append(key in questions)
    return {kind: sum(values) / len(values) for kind, values in seen.items()}


def format_table(scores: list[Score], seen: dict[str, float]) -> str:
    """A Markdown table: one line per kind, one column per variant."""
    lines = [
        "| | " + " | ".join(score.variant for score in scores) + " | questions seen |",
        "|---|" + "---|" * (len(scores) + 1),
    ]
    for kind in scores[0].exact:
        share = f"{seen[kind]:.0%}" if kind in seen else ""
        cells = " | ".join(f"{score.exact[kind]:.0%}" for score in scores)
        lines.append(f"| {kind} | {cells} | {share} |")
    lines.append("| **mean** | " + " | ".join(f"{s.total:.1%}" for s in scores) + " | |")
    lines.append("| perplexity | " + " | ".join(f"{s.perplexity:.4f}" for s in scores) + " | |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Options:
    """The command line."""

    bf16: Path | None
    nvfp4: Path | None
    per_kind: int
    seen: bool
    device: str
    json: Path | None


def _arguments() -> Options:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--bf16", type=Path, help="BF16 folder")
    add("--nvfp4", type=Path, help="NVFP4 folder")
    add("--per-kind", type=at_least_1, default=50, help="questions a kind (50)")
    add("--seen", action="store_true", help="show how many questions the training text contains")
    add("--device", choices=DEVICES, default="auto")
    add("--json", type=Path, help="also write the results here")
    return Options(**vars(parser.parse_args()))


def measure(options: Options) -> str:
    """Measure the folders that the options name; returns the table. Raises `BuildError`."""
    variants = (
        ("BF16", options.bf16),
        ("NVFP4 W4A16", options.nvfp4),
        ("NVFP4 W4A4", options.nvfp4),
    )
    device, scores, results = pick_device(options.device), list[Score](), list[dict[str, Any]]()
    for variant, directory in variants:
        if directory is None:
            continue
        wrong: list[str] = []
        score = evaluate(directory, variant, device, options.per_kind, wrong)
        print(f"evaluate: {variant} {score.total:.1%} exact", flush=True)
        scores.append(score)
        results.append({**asdict(score), "mean": score.total, "wrong": wrong})
    if not scores:
        raise BuildError("give --bf16 or --nvfp4")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return format_table(scores, seen_share(options.per_kind) if options.seen else {})


def main() -> None:
    """The command line's entry: `python -m demo.evaluate`."""
    print(measure(_arguments()))


if __name__ == "__main__":
    run_script(main)
