#!/usr/bin/env python3
"""Compare a running server with a reference file; exit code 1 if it is beyond the tolerances.

    python build/verify.py --profile NAME --reference FILE

It asks tensorrt_llm for the greedy tokens of every prompt and their log-probabilities; where these
leave the reference, it asks again after the reference's tokens, so that every position is compared.
The ensemble's text must be the decoding of those tokens. `make verify` first makes a missing
reference.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.profile import Profile, Tolerances, load_profile, profile_names, run_precision
from host.console import BuildError, run_script, say, script_imports

with script_imports(__name__):
    from engines.engine_json import EngineConfigError
    from reference.figures import Figures, ServedToken, compare, out_of_tolerance, total
    from reference.file import PromptReference, Reference, read_reference
    from reference.prompts import decoded, load_tokenizer
    from reference.served_model import RequestRefused, ServedModel, Text

TIMEOUT_S = 600.0  # of one request; a CPU takes its time over an 8B model
HEADER = (
    f"{'prompt':<12}{'tokens':>7}{'same':>6}{'unsure':>8}   {'log-probability error':^21}   "
    f"{'perplexity':^19}   text\n"
    f"{'':33}   {'mean':>10} {'max':>10}   {'served':>9} {'reference':>9}"
)
SAME, DIFFERS, NOT_COMPARED = "same", "differs", "not compared"


@dataclass(frozen=True)
class Options:
    """The command line; None stands for the profile's."""

    reference: Path
    profile: str | None
    checkpoint: Path | None
    host: str
    grpc_port: int
    metrics_port: int
    timeout_s: float
    same_tokens: bool | None
    max_logprob_error: float | None
    max_perplexity_ratio: float | None


def verify(
    model: ServedModel, reference: Reference, allowed: Tolerances, tokenizer: Any = None
) -> None:
    """Print the table; raises `BuildError` with the figures that are beyond tolerance.

    Without a tokenizer, text is compared only if the tokens are the reference's.
    """
    not_compared = _check_checkpoint(model, reference)
    log_probs, why = _has_log_probs(model, reference)
    if not log_probs:
        not_compared.append(f"log-probabilities and perplexity ({why})")
    say(_precision_line(model.engine_info()))
    say(HEADER)
    figures, texts = [], []
    for prompt in reference.prompts:
        served, answer = served_tokens(model, prompt, log_probs)
        figures.append(compare(prompt, served))
        texts.append(check_text(model, reference, prompt, answer, tokenizer))
        say(_row(prompt.name, figures[-1], texts[-1]))
    whole = total(figures)
    say(_row("all", whole, ""))
    if NOT_COMPARED in texts:
        count = texts.count(NOT_COMPARED)
        not_compared.append(f"the text of {count} prompts (their tokens differ; give --checkpoint)")
    for what in not_compared:
        say(f"not compared: {what}")
    _judge(model, whole, texts, allowed, log_probs)


def _judge(
    model: ServedModel, whole: Figures, texts: list[str], allowed: Tolerances, log_probs: bool
) -> None:
    found = out_of_tolerance(whole, allowed, log_probs)
    wrong = [text for text in texts if text not in (SAME, NOT_COMPARED)]
    if wrong:
        found.append(
            f"the ensemble's text differs for {len(wrong)} of {len(texts)} prompts; none may"
        )
    if found:
        raise BuildError(f"the model at {model.url} is beyond the tolerances: {'; '.join(found)}")
    held = [f"{whole.agreed} of {whole.positions} tokens are the reference's"]
    if log_probs:
        held.append(f"mean log-probability error {whole.mean_error:.2g}")
        held[-1] += f" (allowed {allowed.max_logprob_error:g})"
        held.append(f"perplexity ratio {whole.perplexity_ratio:.5f}")
        held[-1] += f" (allowed {allowed.max_perplexity_ratio:g})"
    say(f"verified within the tolerances: {', '.join(held)}")


def _precision_line(info: dict[str, str]) -> str:
    precision = run_precision(info)
    if not precision:
        return "the server does not report its precision"
    return f"the server computes in {precision}: {info.get('precision_reason', 'no reason given')}"


def _check_checkpoint(model: ServedModel, reference: Reference) -> list[str]:
    """Raise `BuildError` for another checkpoint's server; returns what could not be compared."""
    served = model.engine_info().get("checkpoint_sha256")
    remedy = "give the --reference of the served one"
    if served is None:
        _check_vocabulary(model, reference.vocab_size, remedy)
        return ["the checkpoint (no metric of the server has its digest)"]
    if served != reference.checkpoint_sha256:
        raise BuildError(
            f"the server at {model.url} serves the checkpoint {served[:12]}..., the reference is "
            f"of {reference.checkpoint!r}, {reference.checkpoint_sha256[:12]}...; {remedy}"
        )
    return []


def _check_vocabulary(model: ServedModel, size: int, remedy: str) -> None:
    """Raise `BuildError` unless the server accepts the last id and refuses the next."""
    try:
        model.tokens([size - 1], 1, log_probs=False)
        model.tokens([size], 1, log_probs=False)
        why = f"{size} is an id there too"
    except RequestRefused as error:
        if f"input_ids holds {size} and must" in str(error):
            return
        why = str(error)
    raise BuildError(
        f"the server at {model.url} serves another model than the reference, which has {size} "
        f"token ids ({why}); {remedy}"
    )


def _has_log_probs(model: ServedModel, reference: Reference) -> tuple[bool, str]:
    """Whether the runtime gives log-probabilities, and its refusal if not."""
    try:
        model.tokens(reference.prompts[0].prompt_ids, 1, log_probs=True)
    except RequestRefused as error:
        return False, str(error)
    return True, ""


def served_tokens(
    model: ServedModel, prompt: PromptReference, log_probs: bool
) -> tuple[list[ServedToken], list[int]]:
    """The token that the server chooses at each position of the reference's continuation; and its
    own continuation of the prompt."""
    wanted, served, own = prompt.tokens, list[ServedToken](), list[int]()
    while len(served) < len(wanted):
        done = len(served)
        context = [*prompt.prompt_ids, *wanted[:done]]
        answer = model.tokens(context, len(wanted) - done, log_probs)
        own = own or answer.tokens
        logprobs: Sequence[float | None] = answer.logprobs or [None] * len(answer.tokens)
        for token, logprob in zip(answer.tokens, logprobs, strict=True):
            served.append((token, logprob))
            if token != wanted[len(served) - 1]:
                break  # the rest belongs to another context
    return served, own


def check_text(
    model: ServedModel,
    reference: Reference,
    prompt: PromptReference,
    answer: list[int],
    tokenizer: Any,
) -> str:
    """The table's entry for the ensemble's text; `answer` is the engine's to the prompt."""
    chat = prompt.messages if not reference.dated_template else None
    count = len(prompt.tokens)
    text = model.text(chat or prompt.prompt, count)
    if text.num_input_tokens != len(prompt.prompt_ids):
        return f"prompt has {text.num_input_tokens} tokens, not {len(prompt.prompt_ids)}"
    if tokenizer is None and answer != prompt.tokens:
        return NOT_COMPARED
    if _is_text_of(text, answer, reference, prompt, tokenizer):
        return SAME
    # Once more: a prefix that was cached meanwhile may round differently.
    answer = model.tokens(prompt.prompt_ids, count, log_probs=False).tokens
    return SAME if _is_text_of(text, answer, reference, prompt, tokenizer) else DIFFERS


def _is_text_of(
    text: Text, tokens: list[int], reference: Reference, prompt: PromptReference, tokenizer: Any
) -> bool:
    """Whether it is the decoding of the tokens before the first end token, with their reason."""
    ends = [at for at, token in enumerate(tokens) if token in reference.eos_token_ids]
    if tokenizer is not None:
        expected = decoded(tokenizer, tokens[: ends[0]] if ends else tokens)
    elif tokens == prompt.tokens:
        expected = prompt.text
    else:
        return False
    return (text.text, text.finish_reason) == (expected, "stop" if ends else "length")


def _row(name: str, figures: Figures, text: str) -> str:
    counts = f"{name:<12}{figures.positions:>7}{figures.agreed:>6}{figures.unsure:>8}"
    if not figures.errors:
        return f"{counts}   {NOT_COMPARED:^21}   {NOT_COMPARED:^19}   {text}"
    served, truth = figures.perplexities
    return (
        f"{counts}   {figures.mean_error:>10.2e} {figures.max_error:>10.2e}   "
        f"{served:>9.4f} {truth:>9.4f}   {text}"
    )


def _arguments() -> Options:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--reference", type=Path, required=True, help="made by build/make_reference.py")
    add("--profile", metavar="NAME", help=f"a file, or one of {', '.join(profile_names())}")
    add(
        "--checkpoint",
        type=Path,
        help="for its tokenizer, which decodes tokens that differ (the profile's)",
    )
    add("--host", default="127.0.0.1")
    add("--grpc-port", type=int, default=8001)
    add("--metrics-port", type=int, default=8002, help="for the digest of the served checkpoint")
    add("--timeout-s", type=float, default=TIMEOUT_S, help=f"of one request ({TIMEOUT_S:g})")
    tolerances = parser.add_argument_group("tolerances, in place of the profile's")
    add = tolerances.add_argument
    add("--same-tokens", action=argparse.BooleanOptionalAction)
    add("--max-logprob-error", type=float, metavar="MEAN")
    add("--max-perplexity-ratio", type=float, metavar="RATIO")
    return Options(**vars(parser.parse_args()))


def _tolerances(options: Options, profile: Profile | None, precision: str) -> Tolerances:
    """The profile's for the server's precision, overridden by the options."""
    allowed = profile.tolerances(precision) if profile else Tolerances()
    names = [entry.name for entry in dataclasses.fields(Tolerances)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    try:
        return dataclasses.replace(allowed, **given)
    except EngineConfigError as error:
        raise BuildError(f"{error}; correct the option of that name") from None


def main() -> None:
    """The command line."""
    options = _arguments()
    profile = load_profile(options.profile) if options.profile else None
    reference = read_reference(options.reference)
    folder = options.checkpoint or (profile.checkpoint.folder if profile else None)
    model = ServedModel(options.host, options.grpc_port, options.metrics_port, options.timeout_s)
    model.check_ready()
    allowed = _tolerances(options, profile, run_precision(model.engine_info()))
    verify(model, reference, allowed, load_tokenizer(folder) if folder else None)


if __name__ == "__main__":
    run_script(main)
