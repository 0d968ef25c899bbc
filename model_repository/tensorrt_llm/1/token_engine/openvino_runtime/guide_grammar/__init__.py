"""What a guided output must match, as a grammar that costs the same for every token.

JSON schemas, regular expressions and EBNF grammars are read into rules (`grammar.py`), made
deterministic (`automaton.py`) and written as a plain EBNF grammar (`printer.py`). The library never
reads a caller's text, because its matcher (xgrammar 0.1, in OpenVINO GenAI 2026.4)
follows all possible readings at once. A pattern as short as `([a-z ]+)+!` makes each token of every
request in the batch slower than the last, up to minutes. A deterministic grammar has one reading.
"""
