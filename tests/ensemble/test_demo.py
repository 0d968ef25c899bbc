"""The demo checkpoint through the real server: the golden tokens, whatever else it serves."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llama_fp4 import Client
from serving.child_server import ServerProcess

from tests.support.golden import PROMPTS, without_end
from tests.support.triton_calls import generate_tokens, post

CHATS = [prompt for prompt in PROMPTS if prompt["messages"] is not None]


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: str(prompt["name"]))
def test_greedy_tokens_equal_transformers(
    demo_server: ServerProcess, prompt: dict[str, Any]
) -> None:
    tokens, reason = generate_tokens(demo_server, prompt["prompt_ids"], prompt["max_new_tokens"])
    assert tokens == without_end(prompt["tokens"])
    assert reason == prompt["finish_reason"]


def ask(client: Client, prompt: dict[str, Any], **options: Any) -> str:
    question = prompt["messages"] if prompt["messages"] is not None else prompt["prompt"]
    chunks = list(client.stream(question, max_tokens=prompt["max_new_tokens"], **options))
    assert chunks[-1].num_input_tokens == len(prompt["prompt_ids"])
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: str(prompt["name"]))
def test_the_ensemble_gives_the_golden_text(demo_client: Client, prompt: dict[str, Any]) -> None:
    assert ask(demo_client, prompt) == prompt["text"]
    assert ask(demo_client, prompt, stream=False) == prompt["text"]


def test_late_joiners_and_mixed_sampling_change_nobodys_text(demo_client: Client) -> None:
    """Greedy and sampled requests that start at random moments get what they get alone."""
    rng = random.Random(7)
    jobs = []
    for index in range(48):
        prompt = rng.choice(PROMPTS)
        options: dict[str, Any] = {}
        if index % 2:
            options = {"temperature": 1.2, "top_p": 0.95, "top_k": 50, "seed": index}
        jobs.append((prompt, options))
    alone = [ask(demo_client, prompt, **options) for prompt, options in jobs]
    together: dict[int, str] = {}

    def run(lane: int) -> None:
        for index in range(lane, len(jobs), 12):
            prompt, options = jobs[index]
            together[index] = ask(demo_client, prompt, **options)

    threads = [threading.Thread(target=run, args=(lane,)) for lane in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[index] for index in range(len(jobs))] == alone
    greedy = [(prompt["text"], alone[i]) for i, (prompt, options) in enumerate(jobs) if not options]
    assert all(expected == text for expected, text in greedy)


STORY = [{"role": "user", "content": "Tell me a story about a bear called Rosa."}]


def test_equal_seeds_give_equal_text_and_others_do_not(demo_client: Client) -> None:
    hot: dict[str, Any] = {"temperature": 2.0, "max_tokens": 60}
    texts = [demo_client.generate(STORY, seed=seed, **hot).text for seed in (1, 1, 2, 2**40, 2**40)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4] != texts[0]
    seedless = {demo_client.generate(STORY, **hot).text for _ in range(3)}
    assert len(seedless) == 3


def test_top_k_1_and_temperature_0_are_greedy(demo_client: Client) -> None:
    greedy = demo_client.generate(STORY, max_tokens=60).text
    assert demo_client.generate(STORY, max_tokens=60, temperature=2.0, top_k=1).text == greedy
    assert demo_client.generate(STORY, max_tokens=60, temperature=0.0, top_p=0.5).text == greedy
    assert demo_client.generate(STORY, max_tokens=60, top_p=0.0).text == greedy


def test_a_stop_word_of_several_tokens(demo_client: Client) -> None:
    prompt = next(prompt for prompt in CHATS if len(prompt["text"]) > 100)
    text = prompt["text"]
    stop = text[50:61]
    cut = ask(demo_client, prompt, stop_words=[stop, "never in there"])
    assert cut == text[: text.index(stop)]


SCHEMA = """{"type": "object", "properties": {"city": {"type": "string", "maxLength": 8},
    "capital": {"type": "boolean"}}, "required": ["city", "capital"],
    "additionalProperties": false}"""
TEN_THOUSAND = [np.base_repr(number, 22) for number in range(10_000)]
GUIDES: list[tuple[str, str, Callable[[str], object]]] = [
    ("json", "", lambda text: text[0] in "{["),
    ("json_schema", SCHEMA, lambda text: {"city", "capital"} == json.loads(text).keys()),
    ("regex", "(Paris|Rome), [0-9]{4}", re.compile("(Paris|Rome), [0-9]{4}").fullmatch),
    ("ebnf_grammar", 'root ::= "yes" | "no" | "日本"', ["yes", "no", "日本"].count),
    ("choice", '["\\"Rome\\"", "Pa\\nris", "日本"]', ['"Rome"', "Pa\nris", "日本"].count),
    ("choice", json.dumps(TEN_THOUSAND, separators=(",", ":")), TEN_THOUSAND.count),
]


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
@pytest.mark.parametrize(("kind", "guide", "matches"), GUIDES, ids=[guide[0] for guide in GUIDES])
def test_guided_output_matches_its_guide(
    demo_server: ServerProcess,
    model: str,
    kind: str,
    guide: str,
    matches: Callable[[str], object],
) -> None:
    body: dict[str, Any] = {"text_input": "The capital of Italy", "max_tokens": 120}
    body |= {"guided_decoding_guide_type": kind} | (
        {"guided_decoding_guide": guide} if guide else {}
    )
    status, answer = post(demo_server, f"/v2/models/{model}/generate", body)
    assert status == 200, answer
    # Asked for any object or array, the demo model begins one that it does not end.
    assert json.loads(answer)["finish_reason"] == ("length" if kind == "json" else "stop")
    assert matches(json.loads(answer)["text_output"])
