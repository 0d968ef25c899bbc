"""The texts of an unloaded server, one request after the other: what greedy answers must equal."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
import sdk
from checks import digest, is_greedy
from exchange import Clock, Exchange, history_with
from journeys import Journey
from workload_mix import WorkloadMix

PROGRESS_S = 5.0


def unloaded_texts(
    mix: WorkloadMix, client: sdk.Client, say: Callable[[str], None]
) -> dict[str, str]:
    """Of every greedy turn its digest, by key. Raises ValueError where a request fails."""
    references: dict[str, str] = {}
    clock = Clock(time.time())
    told = time.monotonic()
    for index, conversation in enumerate(mix.distinct_conversations()):
        history: list[dict[str, str]] = []
        for turn in conversation.turns:
            if not is_greedy(turn.options):
                continue
            messages = history_with(history, turn, conversation.chat)
            exchange = Exchange(f"unloaded-{turn.key}", turn, Journey(), clock.now())
            exchange.perform(client, clock, messages, gevent.sleep)
            if exchange.error_class:
                raise ValueError(
                    f"before the load, prompt {turn.key} has no answer: "
                    f"{exchange.error} ({exchange.error_class})"
                )
            references[turn.key] = digest(exchange.answer.text)
            history = [*messages, {"role": "assistant", "content": exchange.answer.text}]
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            say(f"unloaded texts: {index + 1} of {mix.distinct}")
    return references
