"""The texts of an unloaded server: what greedy answers must equal under load.

Few are asked for at once, as much as any server batches, and for a bounded time: what is not there
by then is checked for everything but its text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from traffic.faults import Journey
from traffic.mix import WorkloadMix
from traffic.workloads import Conversation

from sending import sdk
from sending.check_answer import digest, is_greedy
from sending.messages import Unloaded
from sending.request import Clock, Exchange, history_with
from sending.unloaded_cache import UnloadedCache

AT_ONCE = 8
MOST_S = 60.0


async def unloaded_texts(
    mix: WorkloadMix,
    client: sdk.Client,
    show: Callable[[str], None],
    cache: UnloadedCache,
    most_s: float = MOST_S,
) -> Unloaded:
    """Raises ValueError where a request fails. `show` hears of every step."""
    found = Unloaded()
    asked = [each for each in mix.distinct_conversations() if _keys(each)]
    known = [each for each in asked if cache.get(each)]
    if known and await _texts(known[0], client) != cache.get(known[0]):
        cache.clear()  # whatever the server says it is, it is not the one that answered them
        known = []
    for each in known:
        found.references |= dict(zip(_keys(each), cache.get(each), strict=True))
    there = {id(each) for each in known}
    left = [each for each in asked if id(each) not in there]
    done = len(known)

    def keep(conversation: Conversation, texts: list[str]) -> None:
        nonlocal done
        done += 1
        found.references |= dict(zip(_keys(conversation), texts, strict=True))
        cache.put(conversation, texts)
        show(f"unloaded texts: {done} of {len(asked)}, at most {most_s:.0f} s")

    await _ask(left, client, keep, most_s)
    cache.save()
    if done < len(asked):
        found.note = (
            f"{done} of {len(asked)} prompts were answered within {most_s:.0f} s before the load: "
            "no text of the others was compared"
        )
    return found


async def _ask(
    conversations: list[Conversation],
    client: sdk.Client,
    keep: Callable[[Conversation, list[str]], None],
    most_s: float,
) -> None:
    """As many as are answered in time, `AT_ONCE` at once; the first error ends it."""
    left: Iterator[Conversation] = iter(conversations)

    async def ask() -> None:
        for conversation in left:
            keep(conversation, await _texts(conversation, client))

    asking = [asyncio.create_task(ask()) for _ in range(AT_ONCE)]
    try:
        ended, _ = await asyncio.wait(asking, timeout=most_s, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    for task in ended:
        task.result()


async def _texts(conversation: Conversation, client: sdk.Client) -> list[str]:
    """The greedy turns' digests, in order; each asked with the answers before it."""
    digests = []
    clock = Clock(time.time())
    history: list[dict[str, str]] = []
    for turn in conversation.turns:
        if not is_greedy(turn.options):
            continue
        messages = history_with(history, turn, conversation.chat)
        exchange = Exchange(f"unloaded-{turn.key}", turn, Journey(), clock.now())
        await exchange.perform(client, clock, messages)
        if exchange.error_class:
            raise ValueError(
                f"before the load, prompt {turn.key} has no answer: "
                f"{exchange.error} ({exchange.error_class})"
            )
        digests.append(digest(exchange.answer.text))
        history = [*messages, {"role": "assistant", "content": exchange.answer.text}]
    return digests


def _keys(conversation: Conversation) -> list[str]:
    return [turn.key for turn in conversation.turns if is_greedy(turn.options)]
