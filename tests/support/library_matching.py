"""The library's own answer whether a grammar matches a text: a model that writes given texts.

Every character of the texts has a byte token of its own, and behind each token the model writes the
next one, the end token behind the last. Under a grammar it writes the text to its end if the
library's matcher lets it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as op
from engines.openvino_guides import FOLDER, _indifferent_model, write_guide_files
from engines.token_table import TokenTable
from token_engine.openvino_runtime.library import import_openvino

END = 0


class LibraryMatcher:
    """OpenVINO GenAI's pipeline over the bytes of these texts."""

    def __init__(self, texts: list[str], folder: Path) -> None:
        self._ov, self._genai = import_openvino()
        data = [text.encode() for text in texts]
        # Before each text stands a token that begins it.
        self._begins = np.cumsum([1, *(len(one) + 1 for one in data)]).tolist()
        words = [b"", *(piece for one in data for piece in (b"", *(bytes([b]) for b in one)))]
        table = TokenTable(
            np.cumsum([0, *map(len, words)]).astype(np.int32),
            np.frombuffer(b"".join(words), np.uint8),
            np.array([not word for word in words]),
        )
        write_guide_files(table, END, folder)
        following = np.arange(1, len(words) + 1)
        following[[begin - 1 for begin in self._begins[1:]]] = END
        _write_model(following, folder / FOLDER)
        self._pipeline = self._load(folder / FOLDER)

    def matches(self, ebnf: str, number: int) -> bool:
        """Whether the grammar matches the whole text of that number."""
        begin, end = list(pairwise(self._begins))[number]
        config = self._genai.GenerationConfig()
        config.max_new_tokens = end - begin
        config.eos_token_id, config.stop_token_ids = END, {END}
        config.structured_output_config = self._genai.StructuredOutputConfig(grammar=ebnf)
        prompt = self._ov.Tensor(np.array([[begin]], np.int64))
        (result,) = self._pipeline.generate([prompt], [config])
        written = list(result.m_generation_ids[0])
        return written in ([*range(begin + 1, end)], [*range(begin + 1, end), END])

    def _load(self, folder: Path) -> Any:
        scheduler = self._genai.SchedulerConfig()
        scheduler.num_kv_blocks, scheduler.cache_size = 64, 0
        tokenizer = self._genai.Tokenizer(str(folder))
        return self._genai.ContinuousBatchingPipeline(
            str(folder), tokenizer, scheduler, "CPU", INFERENCE_NUM_THREADS=1
        )


def _write_model(following: Any, folder: Path) -> None:
    """The indifferent model, with a preference for each token's follower."""
    size = len(following) + 1  # as the other files have it
    model = _indifferent_model(size)
    (ids,) = (one for one in model.get_parameters() if one.output(0).get_any_name() == "input_ids")
    (result,) = model.get_results()
    wanted = op.gather(op.constant(following), ids, op.constant(np.int64(0)))
    liking = op.one_hot(
        wanted,
        op.constant(np.int64(size)),
        op.constant(np.float32(9)),
        op.constant(np.float32(0)),
        -1,
    )
    logits = op.add(result.input_value(0), liking)
    logits.output(0).set_names({"logits"})
    result.input(0).replace_source_output(logits.output(0))
    ov.serialize(model, str(folder / "openvino_model.xml"), str(folder / "openvino_model.bin"))
