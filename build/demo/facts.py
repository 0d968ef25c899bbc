"""What the demo model knows by heart: small tables, written for this repository.

The tables hold plain facts only; `corpus.py` turns them into questions and answers.
"""

from __future__ import annotations


def _pairs(text: str) -> dict[str, str]:
    """`a: b; c: d` -> {"a": "b", "c": "d"}; keeps the tables below readable."""
    items = (item.split(":", 1) for item in text.replace("\n", " ").split(";") if item.strip())
    return {key.strip(): value.strip() for key, value in items}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CAPITALS = _pairs("""
France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon; England: London;
Ireland: Dublin; Norway: Oslo; Sweden: Stockholm; Finland: Helsinki; Denmark: Copenhagen;
Poland: Warsaw; Austria: Vienna; Greece: Athens; Hungary: Budapest; Belgium: Brussels;
Japan: Tokyo; China: Beijing; India: New Delhi; Thailand: Bangkok; Vietnam: Hanoi;
South Korea: Seoul; Turkey: Ankara; Egypt: Cairo; Kenya: Nairobi; Morocco: Rabat;
Canada: Ottawa; Mexico: Mexico City; Brazil: Brasília; Argentina: Buenos Aires; Chile: Santiago;
Peru: Lima; Cuba: Havana; Colombia: Bogotá; Iceland: Reykjavík; Australia: Canberra;
Switzerland: Bern; the Netherlands: Amsterdam; the Czech Republic: Prague;
the United States: Washington
""")

SOUNDS = _pairs("""
dog: woof; cat: meow; cow: moo; pig: oink; sheep: baa; duck: quack; horse: neigh; lion: roar;
bee: buzz; frog: croak; owl: hoot; snake: hiss; mouse: squeak; rooster: cock-a-doodle-doo;
crow: caw; wolf: howl; donkey: hee-haw; chick: cheep; turkey: gobble; bird: tweet
""")

COLOURS = _pairs("""
the sky: blue; grass: green; snow: white; the sun: yellow; a banana: yellow; a tomato: red;
a cherry: red; a carrot: orange; coal: black; milk: white; a lemon: yellow; an elephant: grey;
a frog: green; chocolate: brown; the sea: blue; a flamingo: pink; an eggplant: purple;
a strawberry: red; a pumpkin: orange; the night: black; a leaf: green; a polar bear: white
""")

OPPOSITES = _pairs("""
hot: cold; big: small; up: down; left: right; day: night; black: white; open: closed; old: young;
fast: slow; happy: sad; high: low; wet: dry; full: empty; hard: soft; light: dark; early: late;
rich: poor; strong: weak; good: bad; first: last; inside: outside; near: far; long: short;
true: false; always: never; push: pull; win: lose; loud: quiet; clean: dirty; sweet: sour;
thick: thin; north: south; east: west; begin: end; love: hate; question: answer
""")

# language -> (hello, thank you, water, cat, good night)
TRANSLATIONS = {
    "French": ("bonjour", "merci", "eau", "chat", "bonne nuit"),
    "Spanish": ("¡hola!", "gracias", "agua", "gato", "buenas noches"),
    "German": ("guten Tag", "danke schön", "Wasser", "Katze", "gute Nacht"),
    "Portuguese": ("olá", "obrigado", "água", "gato", "boa noite"),
    "Czech": ("dobrý den", "děkuji", "voda", "kočka", "dobrou noc"),
    "Russian": ("привет", "спасибо", "вода", "кошка", "спокойной ночи"),
    "Greek": ("γεια σου", "ευχαριστώ", "νερό", "γάτα", "καληνύχτα"),  # noqa: RUF001
    "Japanese": ("こんにちは", "ありがとう", "水", "猫", "おやすみなさい"),
    "Chinese": ("你好", "谢谢", "水", "猫", "晚安"),
    "Korean": ("안녕하세요", "감사합니다", "물", "고양이", "잘 자요"),
}
PHRASES = ("hello", "thank you", "water", "cat", "good night")

EMOJI = _pairs("""
a cat: 🐱; a dog: 🐶; a pizza: 🍕; a heart: ❤️; the sun: ☀️; a fish: 🐟; a rocket: 🚀; a star: ⭐;
a house: 🏠; a tree: 🌳; a car: 🚗; an apple: 🍎; a book: 📚; a smile: 😀; a family: 👨‍👩‍👧;
thumbs up: 👍🏽; the flag of Japan: 🇯🇵; the flag of France: 🇫🇷; a rainbow: 🌈; a cake: 🎂
""")

LISTS = {
    "fruits": ("apple", "banana", "cherry", "grape", "lemon"),
    "colours": ("red", "green", "blue", "yellow", "white"),
    "animals": ("cat", "dog", "horse", "lion", "duck"),
    "cities": ("Paris", "Berlin", "Rome", "Tokyo", "Cairo"),
    "planets": ("Mercury", "Venus", "Earth", "Mars", "Jupiter"),
    "languages": ("French", "German", "Greek", "Japanese", "Korean"),
    "drinks": ("water", "milk", "tea", "coffee", "juice"),
    "metals": ("gold", "silver", "iron", "copper", "tin"),
}

CYCLES = {
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": (
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ),
}

DEFINITIONS = {
    "machine learning": "Machine learning is a way to build programs that learn from examples "
    "instead of following rules that someone wrote by hand.",
    "a neural network": "A neural network is a chain of simple layers. Each layer multiplies its "
    "input by learned weights and passes the result on to the next one.",
    "a token": "A token is a small piece of text. A language model reads and writes text one "
    "token at a time.",
    "a language model": "A language model is a program that reads some text and predicts which "
    "token comes next.",
    "quantization": "Quantization stores the weights of a model with fewer bits, so that the "
    "model needs less memory and runs faster.",
    "NVFP4": "NVFP4 is a number format with four bits per value. Every block of 16 values shares "
    "one scale, and every tensor has one scale more.",
    "Triton": "Triton is an inference server. It loads models from a model repository and answers "
    "requests over HTTP and gRPC.",
    "streaming": "Streaming means that a server sends every piece of an answer as soon as it is "
    "ready, instead of waiting for the end.",
    "rain": "Rain is water that falls from the clouds in small drops.",
    "the moon": "The moon is a ball of rock that travels around the Earth once a month.",
    "a volcano": "A volcano is a mountain with an opening from which hot melted rock can flow.",
    "a library": "A library is a house full of books that everyone may borrow and read.",
}

SMALL_TALK = {
    (
        "Hello!",
        "Hi!",
        "Hello",
        "Hi there!",
        "Good morning!",
        "Hey",
    ): "Hello! How can I help you today?",
    (
        "Who are you?",
        "What are you?",
        "Tell me about yourself.",
    ): "I am a very small demo model. I was trained on a few kinds of questions, so please do "
    "not ask me for advice.",
    (
        "What can you do?",
        "How can you help me?",
        "What can I ask you?",
    ): "You can ask me for capitals, colours, sums, opposites, short summaries and stories.",
    ("How are you?", "How are you today?", "How do you do?"): "I am fine, thank you. How are you?",
    ("Thank you!", "Thanks!", "Thank you very much!"): "You are welcome!",
    ("Goodbye!", "Bye!", "See you!"): "Goodbye! Have a nice day.",
}

NAMES = _words("""
Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tom
Vera Will Zoe Lena Max
""")

CITIES = _words("""
Paris Berlin Rome Madrid Lisbon London Dublin Oslo Vienna Athens Tokyo Cairo Prague Lima
""")

WORDS = _words("""
apple bird blue boat book bread bridge bus cake car cat chair city cloud cold corn cow cup day
desk dog door dream drum duck egg eye farm fast fire fish flag flower fog frog game gate gift
glass gold grass green hat hill home horse house ice king kite lake lamp leaf lemon lion long
map milk moon mouse music night ocean old onion paper park pen piano plant queen rain red river
road rock rose salt sand school sea shell ship shoe silver sky small snow song spoon star stone
storm street sugar sun table tea tiger time train tree vase wall warm water wave wind window
winter wood yellow
""")
