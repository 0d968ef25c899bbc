"""Room 2's input tensors as a request brings them, and an engine that honours all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from engine_config import EngineConfig, Limits, ModelFacts
from request_inputs.generation import GenerationInputs, read_inputs
from token_engine.registry import RUNTIMES, Feature

VOCAB = 100
ENDS = [97, 98]
Array = npt.NDArray[Any]


def able_config(monkeypatch: pytest.MonkeyPatch) -> EngineConfig:
    """An engine whose runtime honours everything there is."""
    everything = frozenset[Feature](get_args(Feature))
    monkeypatch.setitem(RUNTIMES, "all", replace(RUNTIMES["openvino"], features=everything))
    model = ModelFacts("model", VOCAB, 1, ENDS, "")
    return EngineConfig(1, "all", model, Limits(64, 4, 64, 4))


def arrays(**more: Any) -> dict[str, Array]:
    """A batch of one: three prompt tokens, room for ten more, and the inputs in `more`."""
    rows = {"input_ids": np.array([[5, 6, 7]], np.int32), "request_output_len": one(10)}
    return rows | {name: one(value) for name, value in more.items()}


def one(value: Any) -> Array:
    """A value as a tensor [1, n]: float32, int32, bool or bytes; an array as it is."""
    if isinstance(value, np.ndarray):
        return value
    values = value if isinstance(value, list) else [value]
    kinds = {float: np.float32, int: np.int64, bool: np.bool_}
    return np.array([values], kinds.get(type(values[0]), object))


def read(config: EngineConfig, **more: Any) -> GenerationInputs:
    """Room 2's reading of that batch's only row."""
    (inputs,) = read_inputs(arrays(**more), config)
    return inputs


def word_list(ids: list[int], ends: list[int]) -> Array:
    """Sequences of token ids and where each ends, int32 [1, 2, n]; -1 fills up the ends."""
    return np.array([[ids, ends]], np.int32)
