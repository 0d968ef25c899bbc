"""What the load test sends and when: schedules, prompts, faults, recordings, the search."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line.options import OptionError, RunOptions
from searches.find_max_rate import find_max_rate
from searches.rate_trial import Trial
from sending.check_answer import Answer, digest, is_greedy, wrong
from sending.source import LoadSource
from tokenizers import Tokenizer
from traffic.arrivals import RateCurve, Schedule, unit_arrivals
from traffic.faults import journeys_of, parse_faults
from traffic.prompts import PromptWriter
from traffic.replay import ReplayError, read_recording
from traffic.workloads import default_slos

from tests.support.paths import DEMO_CHECKPOINT

TOKENIZER = str(DEMO_CHECKPOINT / "tokenizer.json")
COUNT = 20_000


def gaps(process: str, burstiness: float = 1.0) -> list[float]:
    times = list(itertools.islice(unit_arrivals(process, 1, burstiness), COUNT))
    return [b - a for a, b in itertools.pairwise([0.0, *times])]


@pytest.mark.parametrize(
    ("process", "burstiness", "variance"),
    [("constant", 1.0, 0.0), ("poisson", 1.0, 1.0), ("gamma", 0.25, 4.0), ("gamma", 4.0, 0.25)],
)
def test_arrival_gaps_have_the_right_mean_and_variance(
    process: str, burstiness: float, variance: float
) -> None:
    values = gaps(process, burstiness)
    mean = sum(values) / COUNT
    assert mean == pytest.approx(1.0, rel=0.06)
    assert sum((gap - mean) ** 2 for gap in values) / COUNT == pytest.approx(variance, rel=0.15)


def test_poisson_gaps_follow_the_exponential_distribution() -> None:
    values = sorted(gaps("poisson"))
    steps = ((rank + 0.5) / COUNT - (1 - math.exp(-gap)) for rank, gap in enumerate(values))
    assert max(map(abs, steps)) < 1.63 / math.sqrt(COUNT)  # Kolmogorov-Smirnov, 1 percent


def test_the_workers_schedules_add_up_to_one() -> None:
    def part(index: int, count: int) -> Iterator[tuple[int, float]]:
        units = itertools.islice(unit_arrivals("poisson", 5), 300)
        return Schedule(units, index, count).arrivals()

    whole = list(part(0, 1))
    parts = [arrival for index in range(3) for arrival in part(index, 3)]
    assert sorted(parts) == whole
    assert [number for number, _ in whole] == list(range(300))


def test_a_changed_rate_moves_only_later_arrivals() -> None:
    curve = RateCurve(10.0)
    before = [curve.seconds(unit) for unit in (10, 20, 30, 40)]
    curve.change(2.5, 20.0)
    assert before == [1.0, 2.0, 3.0, 4.0]
    assert [curve.seconds(unit) for unit in (10, 20, 30, 40)] == [1.0, 2.0, 2.75, 3.25]
    with pytest.raises(ValueError, match="must be above 0"):
        curve.change(3.0, 0.0)


@pytest.mark.parametrize("workload", ["64/8", "mlperf-server", "shared-prefix"])
def test_prompts_have_exactly_the_requested_length(workload: str) -> None:
    options = RunOptions(
        workload=workload, tokenizer=TOKENIZER, max_input_tokens=256, prefix_tokens=128
    )
    tokenizer = Tokenizer.from_file(TOKENIZER)
    prompts = [LoadSource(options).mix.conversation(number).turns[0].prompt for number in range(20)]
    # One more than the text's: the server's begin of text.
    counts = [len(tokenizer.encode(text, add_special_tokens=False).ids) + 1 for text in prompts]
    if workload == "64/8":
        assert set(counts) == {64}
    elif workload == "shared-prefix":
        assert set(counts) == {256}
        assert len({prompt[:300] for prompt in prompts}) == 1
        assert len(set(prompts)) > 1
    else:
        assert 64 <= min(counts) <= max(counts) <= 256


def test_a_seed_determines_the_prompts() -> None:
    def texts(seed: int) -> list[str]:
        source = LoadSource(RunOptions(workload="chat", tokenizer=TOKENIZER, seed=seed))
        return [
            turn.prompt for number in range(10) for turn in source.mix.conversation(number).turns
        ]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_faults_have_their_shares_on_every_worker() -> None:
    shares = parse_faults("cancel_storm=0.2, slow_reader=0.1")
    names = [journeys_of(number, 3, shares)[0].name for number in range(5000)]
    assert names.count("cancel_storm") / 5000 == pytest.approx(0.2, abs=0.03)
    assert names.count("slow_reader") / 5000 == pytest.approx(0.1, abs=0.03)
    assert names[7] == journeys_of(7, 3, shares)[0].name
    for text, named in (("storm=1", "'storm'"), ("over_long=x", "'x'"), ("over_long=2", "0 to 1")):
        with pytest.raises(ValueError, match=named):
            parse_faults(text)


def test_a_recording_is_replayed_in_order(tmp_path: Path) -> None:
    path = tmp_path / "traffic.jsonl"
    lines = [
        {"timestamp": 7000, "input_length": 20, "output_length": 3},
        {"timestamp": 5000, "prompt": "Hello", "max_tokens": 2},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    options = RunOptions(replay=str(path), arrivals="trace", speed=2.0, tokenizer=TOKENIZER)
    source = LoadSource(options)
    units = source.units(10.0)
    assert units is not None
    assert [unit / 10.0 for unit in units] == [0.0, 1.0]
    first, second = (source.mix.conversation(number).turns[0] for number in (0, 1))
    assert (first.prompt, first.max_tokens) == ("Hello", 2)
    assert PromptWriter(Path(TOKENIZER)).count(second.prompt) + 1 == 20


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "must have one JSON object a line, and has none"),
        ("{", "line 1 .* is not JSON"),
        ("[]", "must be an object"),
        ('{"prompt": "a", "messages": []}', "prompt and messages"),
        ('{"at": 1}', "input_length, not none"),
        ('{"prompt": "a", "colour": 1}', "'colour'"),
        ('{"prompt": "a", "at": -1}', "at must be a number from 0 on, not -1"),
        ('{"prompt": "a", "at": 1, "timestamp": 3}', "must have one of at and timestamp, not both"),
        (
            '{"prompt": "a", "max_tokens": 4, "output_length": 9}',
            "one of max_tokens and output_length, not both",
        ),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens must be a whole number from 1 on, not 0"),
        ('{"prompt": "a", "at": 1' + "0" * 400 + "}", "on, not 1000"),
        ('{"prompt": "a", "options": ' + '{"a":' * 100_000, "is not JSON: .*recursion"),
        (
            '{"input_length": 99999999999}',
            "input_length must be at most 1,000,000, not 99999999999",
        ),
    ],
)
def test_a_wrong_recording_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "traffic.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ReplayError, match=named):
        read_recording(path)


def test_a_recordings_lines_end_like_json_lines(tmp_path: Path) -> None:
    # All but the last of these end a line for str.splitlines; the file begins with a mark.
    prompts = ["a\u2028b", "c\u0085d", "e\u2029f", "plain"]
    lines = [json.dumps({"prompt": each}, ensure_ascii=False) + "\r\n" for each in prompts]
    path = tmp_path / "traffic.jsonl"
    path.write_text("".join(lines), encoding="utf-8-sig")
    assert [line["prompt"] for line in read_recording(path).lines] == prompts


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"arrivals": "uniform"}, "'uniform'"),
        ({"arrivals": "trace"}, "--replay"),
        ({"rate": 0.0}, "--rate must be a number above 0, not 0"),
        ({"warmup_s": 60.0}, "--warmup must be less than -t's 60 s, not 60 s"),
        ({"sampling": "[]"}, "must be a JSON object"),
        ({"stall": "20"}, "AT:SECONDS"),
        ({"stall": "20:3"}, "--stall-pid"),
        ({"rate": 1e9}, r"--rate must be at most .*10,000,000 arrivals .*, not 1e\+09"),
        ({"slos": "x<1s"}, "'x'"),
        (
            {"over_long_tokens": 99_999_999},
            "--over-long-tokens must be at most 1,000,000, not 99999999",
        ),
    ],
)
def test_a_wrong_option_is_named(changed: dict[str, object], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        RunOptions.from_dict(changed)


def test_default_slos_of_one_token_have_no_tpot() -> None:
    assert default_slos("128/1") == "ttft:p99<2000ms"
    assert default_slos("128/11") == default_slos("") == "ttft:p99<2000ms,tpot:p99<100ms"
    assert default_slos("mlperf-interactive") == "ttft:p99<500ms,tpot:p99<30ms"


def test_a_wrong_answer_is_detected() -> None:
    right = Answer(text="Hi", finals=1, finish_reason="length", num_output_tokens=4)
    assert wrong(right, 4, {"ignore_eos": True}, digest("Hi")) == ""
    assert "unloaded" in wrong(right, 4, {}, digest("Ho"))
    assert "output tokens must be at most 3, not 4" in wrong(right, 3, {}, "")
    assert "exactly 5" in wrong(right, 5, {"ignore_eos": True}, "")
    assert "final flag and no response after it, not 0 and 0" in wrong(
        Answer(text="Hi", finish_reason="stop"), 4, {}, ""
    )
    assert "finish_reason" in wrong(Answer(finals=1, finish_reason="timeout"), 4, {}, "")
    cut = Answer(text="\N{REPLACEMENT CHARACTER}", finals=1, finish_reason="stop")
    assert "half a character" in wrong(cut, 4, {}, "")
    assert wrong(cut, 4, {}, digest(cut.text)) == wrong(cut, 4, {}, None) == ""
    greedy = [is_greedy(options) for options in ({}, {"temperature": 0}, {"top_p": 0.9})]
    assert greedy == [True, True, False]


@pytest.mark.parametrize("capacity", [3.7, 50.0, 200.0])
def test_the_search_finds_the_capacity(capacity: float) -> None:
    found = find_max_rate(lambda rate, whole: Trial(rate=rate, held=rate <= capacity), 8.0)
    assert found.rate is not None
    assert found.rate <= capacity <= found.rate * 1.05


def test_the_search_ends_where_the_client_is_the_bottleneck() -> None:
    def trial(rate: float, whole: bool) -> Trial | None:
        return Trial(rate=rate, held=True, valid=rate < 30)

    found = find_max_rate(trial, 8.0)
    assert (found.rate, [each.rate for each in found.trials]) == (16.0, [8, 16, 32, 32])
    assert "the client was the bottleneck at 32" in found.why
    assert find_max_rate(lambda rate, whole: None, 8.0).why == "it was interrupted"
    assert find_max_rate(lambda rate, whole: Trial(rate=rate, held=False), 8.0).rate is None
