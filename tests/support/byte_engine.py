"""An engine with a byte-level vocabulary, and what a guided output must be."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from engines.token_table import _byte_of_character
from token_engine.interface import GenerationRequest, Guide, SamplingParams

from tests.support.engine_answers import Answer
from tests.support.guide_matching import begins, compiled, matches
from tests.support.small_engines import TOKEN_FLAGS, build_engine, request, write_checkpoint

END = (1, 2)  # of the four special tokens
# Beside the 256 bytes: tokens that cross the borders of rules and characters.
MERGED = ['{"', '":', '": ', '", "', '"}', "}}", "],", "ab", "cab", "12", "0.", " a", "  ", "tru"]
MERGED_BYTES = [word.encode() for word in [*MERGED, "é", "日本", "ёж"]] + [b"\xe6\x97", b"\xa5\xe6"]
PROMPT = (4 + 0x48, 4 + 0x69)


def write_byte_engine(folder: Path, *arguments: str) -> Path:
    """A random model over: 4 special tokens, all bytes, some sequences of bytes, nothing."""
    checkpoint = write_checkpoint(folder / "checkpoint")
    character_of = {byte: character for character, byte in _byte_of_character().items()}
    words = [bytes([byte]) for byte in range(256)] + MERGED_BYTES
    vocabulary = {
        "".join(character_of[byte] for byte in word): 4 + number
        for number, word in enumerate(words)
    }
    special = [{"id": n, "content": f"<|{n}|>", "special": True, **TOKEN_FLAGS} for n in range(4)]
    vocabulary |= {f"<|{n}|>": n for n in range(4)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    (checkpoint / "tokenizer.json").write_text(
        json.dumps({"model": model, "added_tokens": special}), encoding="utf-8"
    )
    return build_engine(checkpoint, folder / "engine", *arguments)


class Detokenizer:
    """Token ids to bytes, by the table that the build wrote."""

    def __init__(self, engine: Path) -> None:
        with np.load(engine / "token_bytes.npz") as table:
            ends, data = table["offsets"].tolist(), table["data"].tobytes()
            self.is_special = table["special"].tolist()
        self.words = [data[a:b] for a, b in pairwise(ends)]

    def __call__(self, tokens: list[int]) -> bytes:
        """Fails on a special token, which no output may hold."""
        assert not any(self.is_special[token] for token in tokens)
        return b"".join(self.words[token] for token in tokens)


def guided(
    key: int,
    guide: Guide | None,
    seed: int | None = None,
    temperature: float = 1.0,
    max_tokens: int = 60,
    end_ids: tuple[int, ...] = END,
    prompt: tuple[int, ...] = PROMPT,
) -> GenerationRequest:
    """A request, sampled if it has a seed."""
    sampling = SamplingParams(seed is None, temperature, seed=seed or 0)
    return request(key, prompt, max_tokens, end_ids, sampling, guide=guide)


def check_answer(answer: Answer, guide: Guide, text_of: Detokenizer) -> str:
    """Check that a complete output is in the guide's language, and that a cut one begins like one.

    Returns the text.
    """
    assert answer.reason in ("stop", "length"), answer
    grammar = compiled(guide.kind, guide.text)
    data = text_of(answer.tokens)
    if answer.reason == "stop":
        assert matches(grammar, data.decode()), data
        return data.decode()
    whole = data.decode(errors="ignore")  # without a character that was cut
    assert len(whole.encode()) > len(data) - 4, data
    assert begins(grammar, whole), data
    return whole
