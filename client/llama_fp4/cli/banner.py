"""What a session of `chat` says of the server before its first prompt, and after each answer."""

from __future__ import annotations

import argparse

from llama_fp4.answers import Completion, Timing
from llama_fp4.cli.metrics import INFO, fetch, parse
from llama_fp4.cli.options import connection
from llama_fp4.client import Client
from llama_fp4.errors import LlamaError
from llama_fp4.transports.choose import metrics_url

METRICS_S = 1.0  # a session does not wait for what it can do without


def banner(client: Client, options: argparse.Namespace) -> str:
    """Model, runtime and server. Raises `LlamaError` if the server does not answer."""
    url = connection(options)["url"]
    server = client.server()
    known = _engine(options.metrics_url or metrics_url(url), options)
    parts = [known.get("model") or f"model {options.model}"]
    if known.get("runtime"):
        parts.append(f"{known['runtime']} runtime")
    return ", ".join([*parts, f"{server.name} {server.version} at {url}"])


def _engine(url: str, options: argparse.Namespace) -> dict[str, str]:
    """The labels of the engine's own metric; none where the metrics are elsewhere."""
    try:
        samples = list(parse(fetch(url, METRICS_S, options)))
    except LlamaError:
        return {}
    return next((sample.labels for sample in samples if sample.name == INFO), {})


def pace(completion: Completion) -> str:
    """As "57 tokens, 31.2 tokens/s, the first after 0.21 s"."""
    count, timing = completion.num_output_tokens, completion.timing
    parts = [f"{count} token{'' if count == 1 else 's'}"]
    rate = tokens_per_s(timing)
    if rate is not None:
        parts.append(f"{rate:.1f} tokens/s")
    if timing.num_responses > 1 and timing.ttft_s is not None:
        parts.append(f"the first after {timing.ttft_s:.2f} s")
    return ", ".join(parts)


def tokens_per_s(timing: Timing) -> float | None:
    """After the first response; of one whole response, over all of its time."""
    if timing.tpot_s:
        return 1 / timing.tpot_s
    if timing.num_responses == 1 and timing.num_output_tokens and timing.e2e_s:
        return timing.num_output_tokens / timing.e2e_s
    return None
