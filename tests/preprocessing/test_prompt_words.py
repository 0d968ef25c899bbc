"""Room 1's words as token ids, and its outputs for callers that run the steps themselves."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from prompt_encoder import PromptEncoder
from request_inputs.rows import read_word_list
from request_preparation import InvalidPrompt, RequestPreparation, UnsupportedPrompt
from tokenizers import Tokenizer

from tests.support.deployments import compile_engine
from tests.support.paths import DEMO_CHECKPOINT

TOKENIZER = Tokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json"))
VOCAB: int = json.loads((DEMO_CHECKPOINT / "config.json").read_text())["vocab_size"]
EVERYTHING = {
    "INPUT_ID", "REQUEST_INPUT_LEN", "REQUEST_OUTPUT_LEN", "STOP_WORDS_IDS", "BAD_WORDS_IDS",
    "EMBEDDING_BIAS", "OUT_END_ID", "OUT_PAD_ID", "DECODER_INPUT_ID", "REQUEST_DECODER_INPUT_LEN",
}  # fmt: skip


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> RequestPreparation:
    folder = tmp_path_factory.mktemp("words") / "engine"
    return RequestPreparation(compile_engine(folder, "--runtime", "replay"))


def prepare(room: RequestPreparation, wanted: set[str] = EVERYTHING, **more: Any) -> Any:
    given = {"QUERY": texts("Hello"), "REQUEST_OUTPUT_LEN": np.array([[4]], np.int32), **more}
    return room.prepare(given, wanted)


def texts(*words: str) -> Any:
    return np.array([[word.encode() for word in words]], object)


def encoded(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False).ids)


def words_of(tensor: Any) -> set[tuple[int, ...]]:
    return set(read_word_list("words", tensor[0], VOCAB, 999, 9999))


def test_a_bad_word_is_banned_alone_and_after_a_space(room: RequestPreparation) -> None:
    bad = prepare(room, BAD_WORDS_DICT=texts("cat", "", "Straße"))["BAD_WORDS_IDS"]
    assert bad.dtype == np.int32
    spelled = ("cat", " cat", "Straße", " Straße")
    assert words_of(bad) == {encoded(word) for word in spelled}


def test_stop_words_are_given_as_they_stand(room: RequestPreparation) -> None:
    stops = prepare(room, STOP_WORDS_DICT=texts("cat", ""))["STOP_WORDS_IDS"]
    assert words_of(stops) == {encoded("cat")}
    wanted = {"INPUT_ID", "REQUEST_INPUT_LEN", "REQUEST_OUTPUT_LEN"}
    assert set(prepare(room, wanted, STOP_WORDS_DICT=texts("cat"))) == wanted


def test_each_weight_goes_to_all_tokens_of_its_word(room: RequestPreparation) -> None:
    bias = prepare(
        room,
        EMBEDDING_BIAS_WORDS=texts("cat", "dog"),
        EMBEDDING_BIAS_WEIGHTS=np.array([[2.5, -1]], np.float32),
    )["EMBEDDING_BIAS"]
    expected = np.zeros(VOCAB, np.float32)
    for word, weight in (("cat", 2.5), ("dog", -1)):
        expected[sorted({*encoded(word), *encoded(" " + word)})] += weight
    assert bias.shape == (1, VOCAB)
    assert (bias[0] == expected).all()


def test_no_words_give_empty_outputs(room: RequestPreparation) -> None:
    empty = {
        "BAD_WORDS_DICT": texts(""),
        "STOP_WORDS_DICT": texts(""),
        "EMBEDDING_BIAS_WORDS": texts(""),
        "EMBEDDING_BIAS_WEIGHTS": np.zeros((1, 1), np.float32),
        "DECODER_QUERY": texts(""),
        "PROMPT_TABLE_EXTRA_ID": np.zeros((1, 1), np.uint64),
    }
    outputs = prepare(room, **empty)
    shapes = {name: outputs[name].shape for name in ("BAD_WORDS_IDS", "STOP_WORDS_IDS")}
    assert shapes == {"BAD_WORDS_IDS": (1, 2, 0), "STOP_WORDS_IDS": (1, 2, 0)}
    assert outputs["EMBEDDING_BIAS"].shape == (1, 0)


def test_bad_words_of_too_many_ids_are_refused_as_words(room: RequestPreparation) -> None:
    """Room 2 would count the spellings, and call them words."""
    many = [f"{number} " + "q" * 200 for number in range(100)]
    with pytest.raises(
        InvalidPrompt, match=r"bad_words make \d+ token ids, each word as it stands"
    ):
        prepare(room, BAD_WORDS_DICT=np.array([many], object))


def test_the_corridor_gets_only_words_that_there_are(room: RequestPreparation) -> None:
    """It wants no STOP_WORDS_IDS; an empty tensor would cost every request some time."""
    wanted = EVERYTHING - {"STOP_WORDS_IDS"}
    assert not {"BAD_WORDS_IDS", "EMBEDDING_BIAS"} & set(prepare(room, wanted))
    assert "BAD_WORDS_IDS" in prepare(room, wanted, BAD_WORDS_DICT=texts("cat"))


def test_a_batch_is_filled_up_with_the_pad_id(room: RequestPreparation) -> None:
    given = {
        "QUERY": np.array([[b"Hello"], [b"Hello there, all of you"]], object),
        "REQUEST_OUTPUT_LEN": np.array([[4], [5]], np.int32),
        "PAD_ID": np.array([[7], [7]], np.int32),
        "BAD_WORDS_DICT": np.array([[b"cat"], [b""]], object),
    }
    outputs = room.prepare(given, EVERYTHING)
    ids, (short, long) = outputs["INPUT_ID"], outputs["REQUEST_INPUT_LEN"].reshape(-1)
    assert ids.shape == (2, long)
    assert (ids[0, short:] == 7).all()
    assert ids[1].tolist()[1:] == list(encoded("Hello there, all of you"))
    assert outputs["REQUEST_OUTPUT_LEN"].tolist() == [[4], [5]]
    assert words_of(outputs["BAD_WORDS_IDS"][1:]) == set()


def test_encoding_a_batch_stops_at_a_prompt_that_is_too_long(
    room: RequestPreparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One instance prepares the prompts of all clients: a refused batch must not hold it up."""
    encoded: list[str] = []
    encode = PromptEncoder.encode_trusted

    def noted(self: PromptEncoder, text: str, most: int | None = None) -> list[int]:
        encoded.append(text)
        return encode(self, text, most)

    monkeypatch.setattr(PromptEncoder, "encode_trusted", noted)
    prompts = ["short", "a b " * 2000, "other"]
    given = {
        "QUERY": np.array([[prompt.encode()] for prompt in prompts], object),
        "REQUEST_OUTPUT_LEN": np.array([[4]] * 3, np.int32),
    }
    with pytest.raises(InvalidPrompt, match="must make at most 2048"):
        room.prepare(given, EVERYTHING)
    assert encoded == prompts[:2]


def test_messages_without_max_tokens_get_the_rest_of_the_context(room: RequestPreparation) -> None:
    def prepared(words: int) -> tuple[int, int]:
        messages = json.dumps([{"role": "user", "content": "word " * words}])
        outputs = room.prepare({"MESSAGES": np.array([[messages.encode()]], object)}, EVERYTHING)
        return int(outputs["REQUEST_INPUT_LEN"][0, 0]), int(outputs["REQUEST_OUTPUT_LEN"][0, 0])

    few, rest = prepared(1)
    assert few + rest == 2048
    fixed = few - 1
    assert prepared(2047 - fixed) == (2047, 1)
    with pytest.raises(InvalidPrompt, match=r"^the prompt has 2048 tokens and must have less"):
        prepared(2048 - fixed)


def test_end_and_pad_are_given_back_or_the_checkpoints_first_end_id(
    room: RequestPreparation,
) -> None:
    end = json.loads((DEMO_CHECKPOINT / "generation_config.json").read_text())["eos_token_id"][0]
    outputs = prepare(room)
    assert outputs["OUT_END_ID"].tolist() == outputs["OUT_PAD_ID"].tolist() == [[end]]
    outputs = prepare(room, END_ID=np.array([[-1]], np.int32), PAD_ID=np.array([[9]], np.int32))
    assert (outputs["OUT_END_ID"].item(), outputs["OUT_PAD_ID"].item()) == (-1, 9)
    assert outputs["DECODER_INPUT_ID"].tolist() == [[9]]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"BAD_WORDS_DICT": texts(*"a" * 129)},
            "holds 129 strings and must hold at most 128",
        ),
        ({"EMBEDDING_BIAS_WORDS": texts("a")}, "holds 1 words and embedding_bias_weights 0 numb"),
        ({"EMBEDDING_BIAS_WEIGHTS": np.ones((1, 2), np.float32)}, "holds 0 words .* 2 numbers"),
        (
            {"EMBEDDING_BIAS_WEIGHTS": np.ones((1, 513), np.float32)},
            "embedding_bias_weights holds 513 numbers and must hold at most 512",
        ),
        ({"END_ID": np.array([[-2]], np.int32)}, "end_id is -2 and must be at least -1"),
        ({"TOOLS": texts("[]")}, "tools is given with text_input and must come with messages"),
    ],
)
def test_wrong_values_are_refused_by_name(
    room: RequestPreparation, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidPrompt, match=words):
        prepare(room, **given)


@pytest.mark.parametrize("name", ["DECODER_QUERY", "IMAGE_URL", "IMAGES"])
def test_images_and_decoder_prompts_are_refused(room: RequestPreparation, name: str) -> None:
    with pytest.raises(UnsupportedPrompt, match="carries a value and must carry none"):
        prepare(room, **{name: texts("x")})
