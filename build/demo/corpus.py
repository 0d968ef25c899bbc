"""The demo model's whole text: chats in the Llama 3.1 format and raw texts, from a seed.

No third-party text is used: the tables and stories beside this file are all there is. A seed
fixes the text completely, and the seeds of training and of evaluation differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from demo import facts, stories
from demo.questions import KINDS, Exchange, draw

TRAIN_SEED = 20250915
DRILL_SEED = 20250916
EVAL_SEED = 7
CALIBRATION_SEED = 99

BOS, END_OF_TEXT, EOT = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
DEFAULT_DATE = "26 Jul 2024"

ONE_WORD = ("Answer in one word.", "Answer with one word only.")  # system messages

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


@dataclass(frozen=True)
class Chat:
    """Messages, the last one by the user, and the only right answer."""

    kind: str
    messages: tuple[Message, ...]
    answer: str


def message(role: str, content: str) -> Message:
    """One chat message in the shape that `apply_chat_template` takes."""
    return {"role": role, "content": content}


def render_header(role: str) -> str:
    """The header that opens a message of this role."""
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def render_prompt(messages: tuple[Message, ...], system_block: bool = True) -> str:
    """Render as the checkpoint's chat template does with add_generation_prompt.

    With `system_block=False` the block with the dates is left out, as some clients do.
    """
    turns = list(messages)
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else ""
    text = BOS
    if system_block:
        dates = f"Cutting Knowledge Date: December 2023\nToday Date: {DEFAULT_DATE}\n\n"
        text += f"{render_header('system')}{dates}{system.strip()}{EOT}"
    for turn in turns:
        text += f"{render_header(turn['role'])}{turn['content'].strip()}{EOT}"
    return text + render_header("assistant")


def _follow_system(rng: Random, exchange: Exchange) -> tuple[str, Exchange]:
    """Pick a system message, and change the exchange as it demands."""
    choice = rng.random()
    if choice < 0.35 and exchange.short is not None:
        return rng.choice(ONE_WORD), Exchange(exchange.question, exchange.short)
    if choice < 0.55 and "\n" not in exchange.answer:
        return "End every answer with 🙂.", Exchange(exchange.question, exchange.answer + " 🙂")
    if choice < 0.8:
        name = rng.choice(facts.NAMES)
        system = rng.choice(("Your name is {}.", "You are {}, a friendly assistant.")).format(name)
        question = rng.choice(("What is your name?", "Who am I talking to?", "Tell me your name."))
        return system, Exchange(question, f"My name is {name}.")
    return rng.choice(
        (
            "You are a helpful assistant.",
            "You are a friendly assistant.",
            "Be polite.",
            "You answer questions.",
        )
    ), exchange


def _memory(rng: Random) -> list[Exchange]:
    """A chat whose last answer is in its first message."""
    name = rng.choice(facts.NAMES)
    first = rng.choice(("My name is {}.", "I am {}.", "Hello, my name is {}.")).format(name)
    last = rng.choice(("What is my name?", "Do you remember my name?", "Who am I?"))
    between = [draw_short(rng) for _ in range(rng.randint(0, 2))]
    return [
        Exchange(first, f"Nice to meet you, {name}!"),
        *between,
        Exchange(last, f"Your name is {name}."),
    ]


def draw_short(rng: Random) -> Exchange:
    """One exchange without a story, for chats of many turns."""
    while True:
        kind, exchange = draw(rng)
        if "story" not in kind:
            return exchange


def _chat(kind: str, exchanges: list[Exchange], system: str | None = None) -> Chat:
    messages = [message("system", system)] if system else []
    for exchange in exchanges[:-1]:
        messages += [message("user", exchange.question), message("assistant", exchange.answer)]
    messages.append(message("user", exchanges[-1].question))
    return Chat(kind, tuple(messages), exchanges[-1].answer)


def draw_system_chat(rng: Random) -> Chat:
    """One question with a system message of its own."""
    system, exchange = _follow_system(rng, draw_short(rng))
    return _chat("system", [exchange], system)


def draw_chat(rng: Random) -> Chat:
    """One training chat: a single question, several turns, or a custom system message."""
    choice = rng.random()
    if choice < 0.15:
        return draw_system_chat(rng)
    if choice < 0.21:
        return _chat("memory", _memory(rng))
    if choice < 0.6:
        turns = rng.choice((2, 3, 4, 6, 8))
        return _chat("multi_turn", [draw_short(rng) for _ in range(turns)])
    kind, exchange = draw(rng)
    return _chat(kind, [exchange])


def draw_drill(rng: Random) -> Chat:
    """A chat of the kinds that the general mix alone does not teach: where to stop counting, sums
    answered in one word, and words never seen."""
    choice = rng.random()
    if choice < 0.5:
        count = rng.choice((1, 1, 3))
        return _chat("counting", [KINDS["counting"][0](rng) for _ in range(count)])
    if choice < 0.8:
        while (exchange := draw_short(rng)).short is None:
            pass
        return _chat("system", [Exchange(exchange.question, exchange.short)], rng.choice(ONE_WORD))
    return _chat("repeat", [KINDS["repeat"][0](rng)])


def _raw_text(rng: Random) -> str:
    """A text without the chat format, like a prompt for a base model."""
    choice = rng.random()
    if choice < 0.5:
        prompt, texts = rng.choice(list(stories.RAW_TEXTS.items()))
        weights = [4.0] + [1.0] * (len(texts) - 1)
        return prompt + rng.choices(texts, weights)[0]
    if choice < 0.8:
        while (drawn := draw(rng))[0] not in ("capital", "opposite", "sound", "colour"):
            pass
        return drawn[1].answer
    return rng.choice(list(stories.STORIES.values())).format(name=rng.choice(facts.NAMES))


def documents(seed: int, drill_share: float = 0.0) -> Iterator[str]:
    """Endless training documents, each from its begin-of-text token to its end token.

    `drill_share` of them are drills.
    """
    rng = Random(seed)
    while True:
        drill = drill_share > 0 and rng.random() < drill_share
        if not drill and rng.random() < 0.06:
            yield BOS + _raw_text(rng) + END_OF_TEXT
        else:
            chat = draw_drill(rng) if drill else draw_chat(rng)
            custom_system = chat.messages[0]["role"] == "system"
            system_block = custom_system or rng.random() < 0.88
            yield render_prompt(chat.messages, system_block) + chat.answer + EOT


def evaluation_chats(seed: int, per_kind: int) -> list[Chat]:
    """`per_kind` chats of every kind, the three kinds of longer chats included."""
    rng = Random(seed)
    chats: list[Chat] = []
    for kind, (sampler, _) in KINDS.items():
        chats += [_chat(kind, [sampler(rng)]) for _ in range(per_kind)]
    for _ in range(per_kind):
        turns = [draw_short(rng) for _ in range(rng.randint(2, 3))]
        chats += [draw_system_chat(rng), _chat("memory", _memory(rng)), _chat("multi_turn", turns)]
    return chats


def raw_prompts() -> list[tuple[str, tuple[str, ...]]]:
    """The raw prompts and the continuations that count as right."""
    france = ("The capital of France is", (" Paris.",))
    return [france, *((prompt, texts) for prompt, texts in stories.RAW_TEXTS.items())]


def write_calibration(path: Path, count: int) -> None:
    """Write `count` documents as JSON lines of {"text": ...}, for the quantizer."""
    source = documents(CALIBRATION_SEED)
    lines = (json.dumps({"text": next(source)}, ensure_ascii=False) for _ in range(count))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
