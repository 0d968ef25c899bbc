"""Before the load: is the server there, what will be sent, what does it answer unloaded?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from command_line.options import OptionError, RunOptions

from sending import sdk
from sending.messages import Prepared
from sending.served import served
from sending.source import LoadSource
from sending.unloaded import unloaded_texts
from sending.unloaded_cache import UnloadedCache, server_identity


async def prepare(
    source: LoadSource, client: sdk.Client, options: RunOptions, show: Callable[[str], None]
) -> Prepared:
    """Raises ValueError, one sentence, where the run cannot begin. `show` hears of every step."""
    show("the server is asked")
    if problem := await first_problem(client, options):
        raise OptionError(problem)
    server = await served(client, options)
    shares = options.shares()
    name = next(iter(shares)) if len(shares) == 1 else options.workload.replace(" ", "")
    if not options.text_check or not source.mix.distinct:
        return Prepared(name, source.sha256(), source.recorded, served=server)
    cache = UnloadedCache(await asyncio.to_thread(server_identity, options))
    texts = await unloaded_texts(source.mix, client, show, cache)
    return Prepared(name, source.sha256(), source.recorded, texts, server)


async def first_problem(client: sdk.Client, options: RunOptions) -> str:
    """The sentence that says why this process gets no answer, or ""."""
    problem = await sdk.first_request(client, options.sampling_options())
    if not problem:
        return ""
    return f"a first request to the model {options.model!r} at {options.url} failed: {problem}"
