"""Which server it is and what it serves, for a run's header."""

from __future__ import annotations

import asyncio
import http.client

from command_line.options import RunOptions
from figures.server_metrics import parse_metrics
from figures.server_samples import fetch_metrics, metrics_url

from sending import sdk


async def served(client: sdk.Client, options: RunOptions) -> dict[str, str]:
    """`server` (as triton 2.51.0), and what its engine tells of itself in llama_fp4_engine_info:
    runtime, model (the checkpoint's name), checkpoint_sha256, ... Only what is known is in it."""
    told = {"server": await sdk.server_version(client)}
    try:
        url = metrics_url(options.metrics_url, options.url)
        metrics = parse_metrics(await asyncio.to_thread(fetch_metrics, url))
    except (OSError, http.client.HTTPException, ValueError):
        return told  # the report says of the metrics why they could not be read
    return told | {name: value for name, value in metrics.engine.items() if value}
