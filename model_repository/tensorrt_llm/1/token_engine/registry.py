"""The runtimes by name. A factory imports its library only when it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine_config import EngineConfig, EngineConfigError

from token_engine.interface import TokenEngine


def _openvino(directory: Path, config: EngineConfig) -> TokenEngine:
    from token_engine.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(directory, config)


def _replay(directory: Path, config: EngineConfig) -> TokenEngine:
    from token_engine.replay_engine import ReplayEngine

    return ReplayEngine(config)


RUNTIMES: dict[str, Callable[[Path, EngineConfig], TokenEngine]] = {
    "openvino": _openvino,
    "replay": _replay,
}


def make_engine(directory: Path, config: EngineConfig) -> TokenEngine:
    """Load the engine that `config.runtime` names from its directory."""
    factory = RUNTIMES.get(config.runtime)
    if factory is None:
        raise EngineConfigError(
            f"runtime is {config.runtime!r}, allowed is one of {', '.join(sorted(RUNTIMES))}"
        )
    return factory(directory, config)
