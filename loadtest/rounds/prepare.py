"""Before the load: is the server there, what will be sent, what does it answer unloaded?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from figures.slo import parse_slos

from rounds import sdk
from rounds.machine import describe_machine
from rounds.options import OptionError, RunOptions
from rounds.served import served
from rounds.source import LoadSource
from rounds.unloaded import Unloaded, unloaded_texts
from rounds.unloaded_cache import UnloadedCache, server_identity


@dataclass(frozen=True)
class Prepared:
    """What every round of the run needs."""

    workload: str  # or several, with their weights
    requests_sha256: str = ""
    recorded: int = 0  # requests of the recording
    unloaded: Unloaded = field(default_factory=Unloaded)
    served: dict[str, str] = field(default_factory=dict)  # of served.py

    def header(
        self, options: RunOptions, rate: float, started_unix: float, workers: int
    ) -> dict[str, Any]:
        """The header of a round's results."""
        return {
            **options.to_dict(),
            "workload": self.workload,  # a replay's is no option's
            "workloads": options.shares(),
            "rate": rate,
            "started_unix": started_unix,
            "workers": workers,
            "machine": describe_machine(),
            "served": self.served,
            "warmup_s": options.warmup_s,
            "duration_s": options.load_s - options.warmup_s,
            "slos": [slo.text for slo in parse_slos(options.slos)],
            "texts_compared": len(self.unloaded.references),
            "requests_sha256": self.requests_sha256,
            "changes": [],  # of the load while it went on
            # An open loop has none, whatever Locust calls its users.
            "users": options.users if options.closed_loop else None,
        }


def prepare(options: RunOptions, show: Callable[[str], None]) -> Prepared:
    """Raises ValueError, one sentence, where the run cannot begin. `show` hears of every step."""
    show("the prompts are made")
    source = LoadSource(options)
    client = sdk.open_client(options.url, options.model)
    try:
        if problem := first_problem(client, options):
            raise OptionError(problem)
        server = served(client, options)
        shares = options.shares()
        name = next(iter(shares)) if len(shares) == 1 else options.workload.replace(" ", "")
        if not options.text_check or not source.mix.distinct:
            return Prepared(name, source.sha256(), source.recorded, served=server)
        cache = UnloadedCache(server_identity(options))
        texts = unloaded_texts(source.mix, client, show, cache)
        return Prepared(name, source.sha256(), source.recorded, texts, server)
    finally:
        client.close()


def first_problem(client: sdk.Client, options: RunOptions) -> str:
    """The sentence that says why this process gets no answer, or ""."""
    problem = sdk.first_request(client, options.sampling_options())
    if not problem:
        return ""
    return f"a first request to the model {options.model!r} at {options.url} failed: {problem}"
