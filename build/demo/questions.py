"""The demo model's question kinds: each sampler draws one question with its only right answer.

`KINDS` maps a kind's name to its sampler and to its weight in the training text. Samplers draw
from the generator they are given and from nothing else, so that a seed fixes every question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from demo import facts, stories


@dataclass(frozen=True)
class Exchange:
    """One question and its answer; `short` is the answer in one word, or None."""

    question: str
    answer: str
    short: str | None = None


def _capital(rng: Random) -> Exchange:
    country, city = rng.choice(list(facts.CAPITALS.items()))
    form = rng.choice(
        (
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "Name the capital of {}.",
            "Tell me the capital of {}.",
            "what is the capital of {}",
            "What's the capital of {}?",
        )
    )
    return Exchange(form.format(country), f"The capital of {country} is {city}.", city)


def _sound(rng: Random) -> Exchange:
    animal, sound = rng.choice(list(facts.SOUNDS.items()))
    form = rng.choice(
        (
            "What does {} say?",
            "How does {} sound?",
            "What sound does {} make?",
            "Tell me the sound of {}.",
        )
    )
    subject = f"{'an' if animal[0] in 'aeiou' else 'a'} {animal}"
    return Exchange(form.format(subject), f"{subject[0].upper()}{subject[1:]} says {sound}.", sound)


def _colour(rng: Random) -> Exchange:
    thing, colour = rng.choice(list(facts.COLOURS.items()))
    form = rng.choice(
        (
            "What colour is {}?",
            "What color is {}?",
            "Which colour has {}?",
            "Tell me the colour of {}.",
        )
    )
    return Exchange(form.format(thing), f"{thing[0].upper()}{thing[1:]} is {colour}.", colour)


def _opposite(rng: Random) -> Exchange:
    left, right = rng.choice(list(facts.OPPOSITES.items()))
    if rng.random() < 0.5:
        left, right = right, left
    form = rng.choice(
        (
            "What is the opposite of {}?",
            "Name the opposite of {}.",
            "Tell me the opposite of {}.",
            "What's the opposite of {}?",
        )
    )
    return Exchange(form.format(left), f"The opposite of {left} is {right}.", right)


def _arithmetic(rng: Random) -> Exchange:
    sign, word = rng.choice((("+", "plus"), ("-", "minus"), ("*", "times")))
    if sign == "*":
        left, right = rng.randint(0, 10), rng.randint(0, 10)
        value = left * right
    else:
        left, right = rng.randint(0, 20), rng.randint(0, 20)
        left, right = (left, right) if sign == "+" else (max(left, right), min(left, right))
        value = left + right if sign == "+" else left - right
    form = rng.choice(
        (
            f"What is {left} {word} {right}?",
            f"What is {left} {sign} {right}?",
            f"How much is {left} {word} {right}?",
            f"Calculate {left} {sign} {right}.",
            f"{left} {sign} {right} = ?",
        )
    )
    return Exchange(form, f"{left} {sign} {right} = {value}.", str(value))


def _counting(rng: Random) -> Exchange:
    start, length = rng.randint(0, 30), rng.randint(3, 12)
    numbers = list(range(start, start + length))
    if rng.random() < 0.3:
        numbers.reverse()
    form = rng.choice(
        ("Count from {} to {}.", "Please count from {} to {}.", "Can you count from {} to {}?")
    )
    return Exchange(form.format(numbers[0], numbers[-1]), ", ".join(map(str, numbers)) + ".")


def _compare(rng: Random) -> Exchange:
    left, right = rng.sample(range(51), 2)
    form = rng.choice(
        (
            "Which is bigger, {} or {}?",
            "What is more, {} or {}?",
            "Which number is larger: {} or {}?",
        )
    )
    high, low = max(left, right), min(left, right)
    return Exchange(form.format(left, right), f"{high} is bigger than {low}.", str(high))


def _calendar(rng: Random) -> Exchange:
    unit, names = rng.choice(list(facts.CYCLES.items()))
    index, step = rng.randrange(len(names)), rng.choice((1, -1))
    word = "after" if step == 1 else "before"
    other = names[(index + step) % len(names)]
    form = rng.choice(
        ("Which {u} comes {w} {n}?", "What {u} comes {w} {n}?", "Tell me the {u} {w} {n}.")
    )
    question = form.format(u=unit, w=word, n=names[index])
    return Exchange(question, f"{other} comes {word} {names[index]}.", other)


def _made_up_word(rng: Random) -> str:
    count = rng.randint(2, 3)
    return "".join(rng.choice("bcdfghklmnprstvwz") + rng.choice("aeiou") for _ in range(count))


def _copied_text(rng: Random) -> str:
    """Text to repeat: mostly known words, sometimes made-up ones, accents, CJK or emoji."""
    choice = rng.random()
    if choice < 0.2:
        return " ".join(_made_up_word(rng) for _ in range(rng.randint(1, 3)))
    if choice < 0.4:
        pool = [word for row in facts.TRANSLATIONS.values() for word in row]
        pool += list(facts.EMOJI.values())
        return " ".join(rng.sample(pool, rng.randint(1, 4)))
    words = rng.sample(facts.WORDS, rng.randint(1, 6))
    return " ".join(words)


def _repeat(rng: Random) -> Exchange:
    text = _copied_text(rng)
    form = rng.choice(("Repeat after me: {}", "Please repeat: {}", "Say this: {}", "Repeat: {}"))
    return Exchange(form.format(text), text)


def _reverse(rng: Random) -> Exchange:
    words = rng.sample(facts.WORDS, rng.randint(2, 5))
    form = rng.choice(
        ("Reverse these words: {}", "Say these words backwards: {}", "Write in reverse order: {}")
    )
    return Exchange(form.format(" ".join(words)), " ".join(reversed(words)))


def _listing(rng: Random) -> Exchange:
    topic, items = rng.choice(list(facts.LISTS.items()))
    count, word = rng.choice(((3, "three"), (4, "four"), (5, "five")))
    form = rng.choice(("List {} {}.", "Name {} {}.", "Give me a list of {} {}."))
    lines = (f"{number}. {item}" for number, item in enumerate(items[:count], 1))
    return Exchange(form.format(word, topic), "\n".join(lines))


def _definition(rng: Random) -> Exchange:
    term, text = rng.choice(list(facts.DEFINITIONS.items()))
    form = rng.choice(("What is {}?", "Explain what {} is.", "Can you explain {}?", "what is {}"))
    return Exchange(form.format(term), text)


def _small_talk(rng: Random) -> Exchange:
    questions, answer = rng.choice(list(facts.SMALL_TALK.items()))
    return Exchange(rng.choice(questions), answer)


def _translation(rng: Random) -> Exchange:
    language, words = rng.choice(list(facts.TRANSLATIONS.items()))
    phrase, word = rng.choice(list(zip(facts.PHRASES, words, strict=True)))
    form = rng.choice(
        ('How do you say "{p}" in {l}?', 'What is "{p}" in {l}?', 'Translate "{p}" into {l}.')
    )
    answer = f'"{phrase[0].upper()}{phrase[1:]}" in {language} is "{word}".'
    return Exchange(form.format(p=phrase, l=language), answer, word)


def _emoji(rng: Random) -> Exchange:
    thing, emoji = rng.choice(list(facts.EMOJI.items()))
    form = rng.choice(("Show me the emoji for {}.", "Which emoji stands for {}?", "Emoji for {}?"))
    return Exchange(form.format(thing), f"Here it is: {emoji}", emoji)


def _summary(rng: Random) -> Exchange:
    who, deed, city = rng.choice(facts.NAMES), rng.choice(stories.DEEDS), rng.choice(facts.CITIES)
    lead = f"{rng.choice(stories.TIMES)}, {who} {deed} in {city}."
    article = " ".join([lead, *rng.sample(stories.FILLERS, rng.randint(2, 5))])
    form = rng.choice(
        (
            "Summarize this article: {}",
            "Summarize in one sentence: {}",
            "Give me a short summary of this text: {}",
        )
    )
    return Exchange(form.format(article), f"{who} {deed} in {city}.")


def _story(rng: Random) -> Exchange:
    hero, text = rng.choice(list(stories.STORIES.items()))
    name = rng.choice(facts.NAMES)
    form = rng.choice(
        (
            "Tell me a story about a {h} called {n}.",
            "Write a story about a {h} named {n}.",
            "Please tell a story about a {h} called {n}.",
        )
    )
    return Exchange(form.format(h=hero, n=name), text.format(name=name))


def _long_story(rng: Random) -> Exchange:
    hero, text = rng.choice(list(stories.LONG_STORIES.items()))
    name = rng.choice(facts.NAMES)
    form = rng.choice(
        (
            "Tell me a long story about a {h} called {n}.",
            "Write a long story about a {h} named {n}.",
        )
    )
    return Exchange(form.format(h=hero, n=name), text.format(name=name))


Sampler = Callable[[Random], Exchange]

# kind -> (sampler, weight): a weight grows with how many facts a kind has and how hard it is.
KINDS: dict[str, tuple[Sampler, float]] = {
    "capital": (_capital, 5.0),
    "sound": (_sound, 2.0),
    "colour": (_colour, 2.0),
    "opposite": (_opposite, 4.0),
    "arithmetic": (_arithmetic, 14.0),
    "counting": (_counting, 5.0),
    "compare": (_compare, 6.0),
    "calendar": (_calendar, 3.0),
    "repeat": (_repeat, 14.0),
    "reverse": (_reverse, 14.0),
    "list": (_listing, 2.0),
    "definition": (_definition, 2.0),
    "small_talk": (_small_talk, 2.0),
    "translation": (_translation, 4.0),
    "emoji": (_emoji, 2.0),
    "summary": (_summary, 8.0),
    "story": (_story, 5.0),
    "long_story": (_long_story, 1.0),
}


def draw(rng: Random) -> tuple[str, Exchange]:
    """Draw one (kind, exchange) by the kinds' weights."""
    kind = rng.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    return kind, KINDS[kind][0](rng)
