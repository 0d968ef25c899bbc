"""The chat page's markdown, in a real browser, against markdown-it: `make test-page`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from playwright.sync_api import Page

from tests.support.chat_browser import chromium
from tests.support.paths import ROOT

PAGE = ROOT / "client" / "llama_fp4" / "gateway" / "chat_page.html"
OUTLINES = Path(__file__).with_name("markdown_outlines.js")
# A line break is a break, as in most chats; HTML stays text.
REFERENCE = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(
    ["table", "strikethrough"]
)
SAME = (
    "a\nb\n\nc",
    "# One\ntext\n## Two ##\n### Three `c` **b**\n",
    "- a\n- b\n  - c\n  - d\n- e",
    "- a\n\n- b\n\n- c",
    "* a\n* b\n\n+ c",
    "1. a\n2. b\n\n   para\n\n   ```py\n   x\n     y\n   ```\n3. c",
    "5. five\n6. six",
    "1) a\n2) b",
    "10. ten\n    more\n11. eleven",
    "- a\n      continued",
    "- \n- b",
    "- a\n  > q\n  > r\n- b",
    "text\n- item\n\nafter",
    "a\n1. b\n2. c",
    "It was in\n1984. A year.",
    "> q\n> r\n\nafter",
    "> q\nlazy",
    "> - a\n> - b\n>\n> 1. c",
    "```\ncode\n\nmore\n```\nafter",
    "~~~js\n```\n~~~\n",
    "```py\nnever closed\n  kept  \n",
    "````\n```\n````",
    "| a | b |\n|---|---|\n| 1 | `x` |\n| 2 | **y** |\n\nend",
    "|a|b|\n|:-|-:|\n|1|2|3|\n|1|",
    "| a \\| b | c |\n|---|---|\n| `d` | e |",
    "| no | table |\nhere",
    "***both*** **bold** *it* __b__ _i_ snake_case_x 2 * 3 * 4",
    "**bold *it* more** and *it **b** x*",
    "***a** b* and **a *b***",
    "*a*b*c* **a**b **\u4e2d\u6587**\u5b57 _a_._b_ (*a*)",
    '**Note:** x **"q"** y **bold\nover lines** end',
    "** ** **** * a * ~~s~~ a **b *c",
    "`a` ``b ` c`` `un `` ` `` `a\nb`",
    "[t](https://e.org/a_(b)) [x](http://e.org \"title\") **[t](https://e.org)**",
    "\\*no\\* \\` \\[x\\] \\_ \\\\",
    "---\n\na\n***\nb\n* * *",
    "#hash\n\n####### seven",
    "- [ ] todo",
    "   indented\n  \nx  \ny",
    "*",
    "-",
    "1.",
    "",
)  # fmt: skip
PARTS = (
    "a", "b ", "- ", "* ", "1. ", "2) ", "> ", "```", "```py\n", "~~~\n", "\n", "\n\n", "  ",
    "    ", "**", "*", "_", "`", "``", "[", "](https://e.org)", "| a | b |\n", "|---|---|\n", "# ",
    "---\n", "\\", "~~", "https://x.org/ ", "\t", "\r\n", "é", "🦙", "<b>",
)  # fmt: skip
LINKS = {
    "https://e.org/x?y=1. And (http://e.org/a)": ["https://e.org/x?y=1", "http://e.org/a"],
    "<https://e.org/a>": ["https://e.org/a"],
    "![picture](https://e.org/p.png)": ["https://e.org/p.png"],
    "[a](javascript:alert(1)) [a](data:text/html,x) [a](//e.org) [a](/path) [a](ftp://e.org)": [],
    "[a](\tjavascript:alert(1)) [a](JAVASCRIPT:alert(1)) [a](vbscript:x) [a](file:///etc)": [],
    "[a](https:javascript:alert(1)) [a](&#106;avascript:alert(1)) [a](http:/e.org)": [],
    "`https://e.org`": [],
}
LONG_RUNS = {
    "stars": "*a ", "opened": "**a *b __c _d ~~e ", "brackets": "[", "pictures": "![",
    "links": "[a](https://x", "addresses": "https://", "quotes": ">", "lists": "- ",
    "escapes": "\\", "pipes": "|", "table": "a|b\n-|-\n", "spaces": "# a  ",
    "ticks": "`a ``b ", "tildes": "~~a",
}  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A blank page with the chat page's own markdown, and nothing else of it."""
    script = PAGE.read_text(encoding="utf-8").partition("<script>")[2].partition("</script>")[0]
    sections = re.split(r"^// ---- (\w+).*$", script, flags=re.MULTILINE)
    parts = dict(zip(sections[1::2], sections[2::2], strict=True))
    code = parts["Helpers"] + parts["Markdown"] + OUTLINES.read_text(encoding="utf-8")
    with chromium() as browser:
        page = browser.new_page()
        page.evaluate(f"(() => {{ {code} }})()")
        yield page


@pytest.mark.parametrize("text", SAME, ids=repr)
def test_it_is_what_markdown_it_makes(page: Page, text: str) -> None:
    ours = page.evaluate("(text) => whole(text)", text)
    assert ours == page.evaluate("(html) => reference(html)", REFERENCE.render(text))


def test_a_line_without_cells_ends_a_table(page: Page) -> None:
    """Here GitHub's tables go on; models write their next sentence there."""
    outline = page.evaluate("(text) => whole(text)", "a | b\n--- | ---\n1 | 2\nThat was all.")
    assert outline.endswith('p["That was all."]')


@pytest.mark.parametrize("text", SAME, ids=repr)
def test_a_stream_ends_as_the_whole_text(page: Page, text: str) -> None:
    assert page.evaluate("(text) => pieces(text)", text) == page.evaluate("(t) => whole(t)", text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(texts=st.lists(st.lists(st.sampled_from(PARTS), max_size=30).map("".join), max_size=50))
@example(texts=["a | b\n--- | ---\n1 | 2\nx", "``\n", "_~~~\n", "- a\n  ```\n  x\n y"])
def test_any_stream_ends_as_the_whole_text(page: Page, texts: list[str]) -> None:
    """Character by character: what an unfinished line showed leaves nothing behind."""
    differ = "(texts) => texts.filter((text) => whole(text) !== pieces(text))"
    assert page.evaluate(differ, texts) == []


def test_an_unfinished_text_looks_finished(page: Page) -> None:
    """No marks flicker: what is open counts as closed until more comes."""
    assert (
        page.evaluate("(text) => begun(text)", "It is **very imp")
        == 'p["It is "strong["very imp"]]'
    )
    assert page.evaluate("(text) => begun(text)", "Run `ls -") == 'p["Run "code["ls -"]]'
    assert page.evaluate("(text) => begun(text)", "```py\nx = 1\ny") == 'pre[code["x = 1\\ny\\n"]]'
    assert (
        page.evaluate("(text) => begun(text)", "See [the docs](https://e.o") == 'p["See the docs"]'
    )
    assert page.evaluate("(text) => begun(text)", "a\n\n``") == 'p["a"]'


@pytest.mark.parametrize("text", LINKS, ids=repr)
def test_only_web_addresses_become_links(page: Page, text: str) -> None:
    assert page.evaluate("(text) => links(text)", text) == LINKS[text]


@pytest.mark.parametrize("name", LONG_RUNS)
def test_a_long_run_of_marks_is_shown(page: Page, name: str) -> None:
    """Nothing recurses or goes back over what it has read: 200,000 characters would not end."""
    text = LONG_RUNS[name] * (200_000 // len(LONG_RUNS[name]))
    assert page.evaluate("(text) => whole(text).length > 0", text)
