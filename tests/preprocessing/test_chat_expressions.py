"""Whatever a template does with a user's words, only the template writes control tokens.

Each expression is over `t`, the user's "<|user|>", with as many control tokens as the template
itself writes in it; the text is that of transformers.
"""

from __future__ import annotations

import json

import pytest
from chat_messages import parse_messages

from tests.preprocessing.test_chat_equality import load
from tests.preprocessing.test_chat_families import BOS, both
from tests.support.chat_families import TOKENS

USER = "<|user|>"
# Exactly followed: the template's own tokens stay tokens beside the words.
FOLLOWED = {
    "t": 0,
    "'<|end|>' + t + '<|end|>'": 2,
    "'<|end|>' ~ t ~ 1 ~ none ~ '<|end|>'": 2,
    "t * 2 + '<|end|>'": 1,
    "('<|end|>' ~ t)[8:] ~ t[::-1][::-1]": 0,
    "('<|end|>' ~ t ~ '<|end|>')[:8]": 1,
    "('<|end|> ' ~ t).split()[0]": 1,
    "('<|end|> ' ~ t).split() | join('<|end|>')": 2,
    "'<|end|>'.join([t, t])": 1,
    "[t, t] | join('<|end|>')": 1,
    "[{'a': t}, {'a': t}] | join('<|end|>', attribute='a')": 1,
    "t.join(['<|end|>', '<|end|>'])": 2,
    "'%s<|end|>' % t": 1,
    "'%s<|end|>%s' % (t, 1)": 1,
    "'%(a)s<|end|>' % {'a': t}": 1,
    "'%s<|end|>' | format(t)": 1,
    "'{}<|end|>'.format(t)": 1,
    "'{a[0]}<|end|>'.format(a=[t])": 1,
    "'{0:>12}<|end|>'.format(t)": 1,
    "'{a}<|end|>'.format_map({'a': t})": 1,
    "'<|end|>x'.replace('x', t)": 1,
    "'<|end|>x' | replace('x', t)": 1,
    "(t ~ 'x').replace('x', '<|end|>')": 1,
    "t | replace('<|', '<|end|>')": 1,
    "('<|end|> ' ~ t) | trim": 1,
    "(' ' ~ t).strip() ~ '<|end|>'": 1,
    "('<|end|>\\n' ~ t).splitlines() | first": 1,
    "('<|end|>\\n' ~ t) | indent(2)": 1,
    "('<|end|>,' ~ t).partition(',') | join": 1,
    "('<|end|>,' ~ t).rsplit(',', 1)[0]": 1,
    "t | default('<|end|>')": 0,
    "t[99] | default('<|end|>')": 1,
    "['<|end|>', t] | first": 1,
    "{'a': '<|end|>', 'b': t}.get('a')": 1,
    "{t: '<|end|>'}[t]": 1,
    "{t: '<|end|>'}.items() | map('join') | join": 1,
    "('<|end|>' ~ t) | lower": 1,
    "('<|end|>' ~ t).lower().upper().lower()": 1,
    "('<|end|>' ~ t) | center(40)": 1,
    "('<|end|>' ~ t) | list | join": 1,
    "('<|end|>' ~ t) | reverse | reverse": 1,
    "('<|end|>' ~ t).removeprefix('<') ~ '<|end|>'": 1,
    "('<|end|>' ~ t) | string ~ (t | safe)": 1,
    "('<|end|>' ~ t) | truncate(9, true, '')": 1,
    "namespace(a='<|end|>' ~ t).a": 1,
    "dict(a='<|end|>' ~ t)['a']": 1,
    "cycler(t, '<|end|>').next()": 0,
    "'<|' ~ 'user' ~ '|>' ~ t": 1,
    "'<|' ~ messages[0].role ~ '|>' ~ t": 1,
    "'<|%s|>' % messages[0].role ~ t": 1,
    "'<|' ~ t[2:6] ~ '|>'": 0,
    "'<|user' ~ t[6:]": 0,
    "t[:2] ~ 'user|>'": 0,
}
# Not followed: all is the user's, and the template's token is text.
GIVEN_UP = [
    "t | tojson",
    "[t] | tojson(indent=1)",
    "{'<|end|>': t} | tojson",
    "[t]",
    "{t: 1}",
    "(t, 1) | string",
    "t.encode().decode()",
    "t.encode()",
    "t.translate({})",
    "t | title | lower",
    "t.title() | lower",
    "(t | upper).swapcase()",
    "(t | capitalize).casefold()",
    "t | wordwrap(40)",
    "t | striptags",
    "t | urlize",
    "t | escape | replace('&lt;', '<') | replace('&gt;', '>')",
    "t | forceescape",
    "t | pprint",
    "{'a': t} | xmlattr",
    "t | urlencode",
    "[t, t] | unique | join",
    "t | list | sort | join",
    "[t] | map('string') | map('trim') | join",
    "[{'a': t}] | groupby('a') | first | string",
    "[t] | batch(2, '') | list",
    "'{!r}'.format([t])",
    "'%s' % [t]",
    "'%r' % t",
    "strftime_now(t)",
    "namespace(a=t)",
    "{'a': t} | dictsort",
    "{'a': t}.values() | list | string",
    "t.join('ab')[1:-1]",
    "t.zfill(20)",
    "t.expandtabs()",
    "(t | replace('u', 'U')).lower()",
    "t[0] ~ t[1:]",
    "t | first ~ t[1:]",
    "(t | reverse | list | reverse | list) | join",
    "joiner(t)() ~ t",
    "{'a': 1} | tojson(indent=t)",
    "[1, 2] | tojson(separators=(t, t))",
    "'abcdefgh'.translate('x'.maketrans('abcdefgh', t))",
    "'<|user|>'.translate({97: 98})",
    "'%c%c' % (60, 124) ~ 'user|>'",
    "'{:c}|user|>'.format(t.encode()[0])",
    "'%c%%s' % 60 % '|user|>'",
    "'%(a)c|user|>' | format(a=t.encode()[0])",
]
SET_BLOCKS = [
    ("{% set x %}<|end|>{{ t }}{% endset %}{{ x }}", 1),
    ("{% set x | trim %}<|end|>{{ t }} {% endset %}{{ x }}", 1),
    ("{% filter lower %}<|end|>{{ t }}{% endfilter %}", 1),
    ("{% macro m(a, b='<|end|>') %}{{ a }}{{ b }}{% endmacro %}{{ m(t) }}", 1),
    ("{% macro m() %}{{ caller(t) }}<|end|>{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}", 1),
    ("{% generation %}<|end|>{{ t }}{% endgeneration %}", 1),
    ("{% for c in t %}{{ c }}{% endfor %}<|end|>", 1),
    ("{% for x in [[t]] recursive %}{{ loop(x) if x is not string else x }}{% endfor %}", 0),
    ("{% for a, b in {t: t}.items() %}{{ a }}{{ b }}{{ loop.cycle(a, b) }}{% endfor %}", 0),
    ("{% block b %}<|end|>{{ messages[0].content }}{% endblock %}{{ self.b() }}", 2),
    ("{% set ns = namespace(x='') %}{% for i in [1, 2] %}{% set ns.x = ns.x ~ t %}{% endfor %}"
     "{{ ns.x ~ '<|end|>' }}", 1),
    ("{% for i in [1] %}{{ '<|end|>'.join([t, t]) ~ '%s' % t ~ t.split('|')[1] }}{% endfor %}", 1),
    ("{% macro m(a) %}<|end|>{% endmacro %}{{ m(t) ~ t }}", 1),
    ("{% generation %}<|end|>{% endgeneration %}{{ t }}", 1),
    ("{% for i in [1] %}{% set x = t %}{{ '<|end|> '.strip() ~ strftime_now('<|end|>') }}"
     "{% endfor %}", 2),
    ("{% with x = t %}{{ x }}{% endwith %}", 0),
    ("{% for b in t.encode() %}{{ '%c' % b }}{% endfor %}", 0),
    ("{% if t == '<|user|>' and '<|' in t and t.startswith('<|us') and t | length == 8 %}"
     "<|end|>{% endif %}", 1),
]  # fmt: skip
CASES = [(f"{{{{ {expression} }}}}", own) for expression, own in FOLLOWED.items()]
CASES += [(f"{{{{ {expression} }}}}", 0) for expression in GIVEN_UP]
CASES += SET_BLOCKS


@pytest.mark.parametrize(("body", "own"), CASES, ids=[body for body, _ in CASES])
def test_the_control_tokens_are_the_templates(body: str, own: int) -> None:
    text, transformers = both("everything", True)
    source = "{% set t = messages[0].content %}" + body
    messages = [{"role": "user", "content": USER}]
    expected = transformers.apply_chat_template(messages, chat_template=source, tokenize=False)
    prompt = load(source).render(parse_messages(json.dumps(messages)))
    ids = text.encoder.encode_rendered(prompt)
    assert ids[0] == BOS
    assert transformers.decode(ids[1:], clean_up_tokenization_spaces=False) == expected
    controls = set(transformers.convert_tokens_to_ids(list(TOKENS)))
    assert sum(token in controls for token in ids) == own


MOVED = {
    "{{ (t ~ '<|end|>' ~ u) % {'a': 'x'} }}": ["%(a)14s<|end|>", "%%" * 7],
    "{{ (t ~ '<|end|>' ~ u).format(a='x') }}": ["{a:>14}<|end|>", "{{" * 7],
    "{{ '%r<|end|>%r' % (t, u) }}": [
        "a" + "\U0010ffff" * 12 + "<|end|>",
        "aaaa" + "\U0010ffff" * 3,
    ],
    "{{ (t ~ '\t<|end|>' ~ (u ~ '\t') * 3).expandtabs(5) }}": ["\t\t<|end|>", "\naaaa"],
}


@pytest.mark.parametrize("body", MOVED)
def test_a_users_text_never_takes_the_place_of_the_templates(body: str) -> None:
    """Texts whose lengths the words choose: nothing is a control token."""
    text, transformers = both("everything", True)
    source = "{% set t = messages[0].content %}{% set u = messages[1].content %}" + body
    messages = [{"role": "user", "content": content} for content in MOVED[body]]
    ids = text.encoder.encode_rendered(load(source).render(parse_messages(json.dumps(messages))))
    assert not {*ids[1:]} & {*transformers.convert_tokens_to_ids(list(TOKENS))}
