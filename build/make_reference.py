#!/usr/bin/env python3
"""Write the reference for verifying a served model: the dequantized checkpoint's own answers.

    python build/make_reference.py --checkpoint DIR --output FILE

It is computed in f32 with plain numpy, without any engine's code. Each forward pass serves all
prompts and reads the weights from the mapped files, so 8B parameters need no more memory than 1B.
FILE.partial keeps the finished positions: after an interruption the same command continues.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from checkpoints.llama_config import LlamaConfig
from engines.profile import load_profile, profile_names
from host.console import (
    BuildError,
    Phase,
    at_least_1,
    run_script,
    say,
    script_imports,
    stop_resumable,
)
from host.output_folder import write_whole_file

with script_imports(__name__):
    import numpy as np
    from checkpoints.manifest import MEMORY, digest_checkpoint
    from checkpoints.nvfp4 import open_checkpoint
    from numpy.typing import NDArray
    from reference.file import (
        PromptReference,
        Reference,
        Top,
        as_top,
        read_reference,
        write_reference,
    )
    from reference.prompts import (
        Prompt,
        decoded,
        is_dated,
        load_tokenizer,
        render_prompts,
        template_source,
    )
    from reference.streamed import StreamedLlama

MAKER_VERSION = "1"  # raise it when the same checkpoint and options give another file
TOP = 20  # likeliest tokens of a position; a served token that is none of them is wrong
LARGE_BYTES = 2 * 10**9  # above this a pass takes seconds: fewer prompts, fewer tokens
SMALL, LARGE = (None, 32), (6, 16)  # prompts (None: all) and tokens of each


@dataclass
class Progress:
    """The finished positions, saved after every pass."""

    path: Path
    identity: dict[str, object]  # checkpoint, prompts and number of tokens
    tops: list[list[Top]] = field(default_factory=list)

    def load(self) -> None:
        """Load what an interrupted run of the same work left."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            if document["identity"] == self.identity:
                self.tops = [[as_top(top) for top in tops] for tops in document["tops"]]
        except (OSError, ValueError, KeyError, TypeError):
            return

    def save(self) -> None:
        """Replace the file as a whole, so that a kill cannot damage it."""
        document = {"identity": self.identity, "tops": self.tops}
        write_whole_file(self.path, json.dumps(document))


def make_reference(
    checkpoint: Path, output: Path, most_prompts: int | None = None, tokens: int | None = None
) -> bool:
    """Write the file; returns False if it is up to date. Raises `BuildError`."""
    opened = open_checkpoint(checkpoint)
    config, is_large = opened.config, opened.data_bytes > LARGE_BYTES
    usual_prompts, usual_tokens = LARGE if is_large else SMALL
    tokens = tokens or usual_tokens
    prompts = render_prompts(checkpoint, config, most_prompts or usual_prompts)
    work = _work_folder(output)
    work.mkdir(parents=True, exist_ok=True)
    sha256 = _digest(checkpoint, work)
    made_with = {"make_reference": MAKER_VERSION, "numpy": np.__version__, "tokens": str(tokens)}
    if _is_current(output, sha256, made_with, prompts):
        say(f"{output} is up to date")
        shutil.rmtree(work)
        return False
    identity: dict[str, object] = {
        "sha256": sha256, "made_with": made_with, "prompts": [prompt.ids for prompt in prompts],
    }  # fmt: skip
    progress = Progress(work / "progress.json", identity, [[] for _ in prompts])
    progress.load()
    _continue_all(checkpoint, prompts, progress, tokens, config.eos_token_ids)
    write_reference(output, _assembled(checkpoint, config, prompts, progress, sha256, made_with))
    shutil.rmtree(work)
    count = sum(map(len, progress.tops))
    say(f"{output} is ready: {len(prompts)} prompts, {count} tokens")
    return True


def _work_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def _assembled(
    checkpoint: Path,
    config: LlamaConfig,
    prompts: list[Prompt],
    progress: Progress,
    sha256: str,
    made_with: dict[str, str],
) -> Reference:
    tokenizer = load_tokenizer(checkpoint)
    references = []
    for prompt, tops in zip(prompts, progress.tops, strict=True):
        text = decoded(tokenizer, [top[0][0] for top in tops])
        references.append(
            PromptReference(prompt.name, prompt.messages, prompt.text, prompt.ids, tops, text)
        )
    return Reference(
        checkpoint=checkpoint.resolve().name,
        checkpoint_sha256=sha256,
        vocab_size=config.vocab_size,
        eos_token_ids=list(config.eos_token_ids),
        dated_template=is_dated(template_source(checkpoint)),
        made_with=made_with,
        prompts=references,
    )


def _digest(checkpoint: Path, work: Path) -> str:
    """The checkpoint's digest as in engine.json, kept for the next attempt."""
    digest = digest_checkpoint(checkpoint, work)
    write_whole_file(work / MEMORY, json.dumps(digest))
    sha256: str = digest["sha256"]
    return sha256


def _is_current(
    output: Path, sha256: str, made_with: dict[str, str], prompts: list[Prompt]
) -> bool:
    if not output.exists():
        return False
    try:
        found = read_reference(output)
    except BuildError:  # another version's, or damaged
        return False
    asked = [prompt.ids for prompt in prompts]
    same_work = found.checkpoint_sha256 == sha256 and found.made_with == made_with
    return same_work and [prompt.prompt_ids for prompt in found.prompts] == asked


def _continue_all(
    checkpoint: Path,
    prompts: list[Prompt],
    progress: Progress,
    tokens: int,
    eos_ids: tuple[int, ...],
) -> None:
    """Greedy tokens for every prompt, each up to an end token or `tokens`."""
    tops = progress.tops
    done = max(map(len, tops))
    if done:
        say(f"continuing after token {done} of {tokens}, kept in {progress.path.parent}")
    fed = [
        [*prompt.ids, *(t[0][0] for t in top)] for prompt, top in zip(prompts, tops, strict=True)
    ]
    llama = StreamedLlama(checkpoint, len(prompts))
    name = f"computing {tokens - done} tokens of {len(prompts)} prompts"
    with Phase(name, (tokens - done) * llama.pass_bytes) as phase:
        llama.advance = phase.advance
        while True:
            active = [
                index
                for index, top in enumerate(tops)
                if len(top) < tokens and not (top and top[-1][0][0] in eos_ids)
            ]
            if not active:
                return
            asked = [fed[index] if index in active else [] for index in range(len(prompts))]
            hidden = llama.hidden_states(asked)
            logits = llama.logits(np.stack([hidden[index][-1] for index in active]))
            if not np.isfinite(logits).all():
                raise BuildError(
                    f"the logits of {checkpoint} are not finite; look for the cause with "
                    "build/fetch_checkpoint.py --check"
                )
            for index, row in zip(active, logits, strict=True):
                tops[index].append(likeliest(row))
                fed[index] = [tops[index][-1][0][0]]
            progress.save()


def likeliest(logits: NDArray[np.float32], count: int = TOP) -> Top:
    """logits f32 [vocab] -> (token id, log-probability) of the `count` likeliest, best first."""
    shifted = logits.astype(np.float64) - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum())
    best = np.argsort(-logprobs, kind="stable")[:count]
    return tuple((int(token_id), round(float(logprobs[token_id]), 7)) for token_id in best)


@dataclass(frozen=True)
class Options:
    """The command line; None stands for the usual number."""

    checkpoint: Path
    output: Path
    prompts: int | None
    tokens: int | None


def _arguments() -> Options:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, help="folder with the NVFP4 checkpoint (the profile's)")
    add("--profile", metavar="NAME", help=f"a file, or one of {', '.join(profile_names())}")
    add("--output", type=Path, required=True, help="the reference file")
    add("--prompts", type=at_least_1, help=f"how many of them (all; {LARGE[0]} beyond 2 GB)")
    add("--tokens", type=at_least_1, help=f"of each prompt ({SMALL[1]}; {LARGE[1]} beyond 2 GB)")
    options = parser.parse_args()
    checkpoint = options.checkpoint
    if checkpoint is None and options.profile:
        checkpoint = load_profile(options.profile).checkpoint.folder
    if checkpoint is None:
        raise BuildError(
            f"the profile {options.profile!r} names no checkpoint's folder; give --checkpoint"
            if options.profile
            else "there is no checkpoint; give --checkpoint or --profile"
        )
    return Options(checkpoint, options.output, options.prompts, options.tokens)


def main() -> None:
    """The command line."""
    options = _arguments()
    try:
        make_reference(options.checkpoint, options.output, options.prompts, options.tokens)
    except KeyboardInterrupt:
        if not _work_folder(options.output).exists():
            raise
        stop_resumable("the work so far", _work_folder(options.output))


if __name__ == "__main__":
    run_script(main)
