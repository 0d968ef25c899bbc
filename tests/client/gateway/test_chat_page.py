"""The chat page before the gateway and a real server, in a real browser: `make test-page`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from serving.child_server import ServerProcess, free_ports

from tests.conftest import MakeRepository, serving
from tests.support.chat_browser import DESKTOP, PHONE, Chat, chromium
from tests.support.cli_calls import environment
from tests.support.gateway_calls import Gateway, gateway_of, start_gateway
from tests.support.processes import engine_of, eventually, figure

NewChat = Callable[..., Chat]
LONG = 1500  # more tokens than any test waits for, and fewer than the engine's 2048
EVENT = 'data: {"choices": [{"index": 0, "delta": {"content": "Half of"}}]}\n\n'
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</textarea></article><iframe src='javascript:alert(1)'></iframe>",
    "[click](javascript:alert(1)) [click](JaVaScRiPt:alert(1)) [click]( javascript:alert(1))",
    "[click](data:text/html,<script>alert(1)</script>) <javascript:alert(1)>",
    "![image](https://example.org/image.png) <img src=https://example.org/x.png>",
    "[a](https://example.org/\"onmouseover=\"alert(1)) <a href='https://e.org' onclick=alert(1)>",
    "<style>@import 'https://example.org/x.css'; body { display: none }</style>",
    "<svg onload=alert(1)><use href='https://example.org/x.svg#a'/></svg>",
    "| <b>a</b> | b |\n|---|---|\n| <img src=x onerror=alert(1)> | `<script>alert(1)</script>` |",
    '```html"><script>alert(1)</script>\n<script>alert(1)</script>\n```',
    "> # <b onclick=alert(1)>x</b>\n- <details open ontoggle=alert(1)>",
    "{{constructor.constructor('alert(1)')()}} ${alert(1)} __proto__",
    "\u202egnp.exe\u202c \u2066abc\u2069 \u200f\u200e \u0000 \ufeff",
)


@pytest.fixture(scope="module")
def triton(
    make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """It plays each prompt back, 100 tokens a second: what a user writes, the model writes too."""
    repository = make_repository("--runtime", "replay", "--step-seconds", "0.01")
    yield from serving(repository, tmp_path_factory.mktemp("page-server"))


@pytest.fixture(scope="module")
def gateway(triton: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Before that server."""
    with gateway_of(triton, tmp_path_factory.mktemp("page-gateway")) as gateway:
        yield gateway


@pytest.fixture
def slow_server(make_repository: MakeRepository, tmp_path: Path) -> Iterator[ServerProcess]:
    """As `triton`, and the test may kill its engine."""
    repository = make_repository("--runtime", "replay", "--step-seconds", "0.01")
    with ServerProcess(repository, free_ports(), tmp_path / "server.log") as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def new_chat(browser: Browser, gateway: Gateway) -> Iterator[NewChat]:
    """Opens a tab of a new browser profile, or with `beside=chat` of the same."""
    chats: list[Chat] = []

    def make(
        *, url: str = gateway.url, beside: Chat | None = None, max_tokens: int = 80, **options: Any
    ) -> Chat:
        if beside is None:
            options = {"viewport": DESKTOP, **options}
            context = browser.new_context(**options)
            context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        else:
            context = beside.page.context
        chats.append(Chat(context, url, max_tokens))
        return chats[-1]

    yield make
    for chat in chats:
        chat.check()
    for context in {chat.page.context for chat in chats}:
        context.close()


@pytest.fixture
def chat(new_chat: NewChat) -> Chat:
    return new_chat()


# ---- Sending and answers


def test_an_answer_streams_and_ends_with_its_figures(chat: Chat) -> None:
    chat.send("Count from 2 to 7.")
    expect(chat.find("#stop")).to_be_visible()
    expect(chat.find("article.assistant .stats")).to_contain_text("tokens/s")  # while it runs
    expect(chat.find("article.assistant")).to_have_attribute("aria-busy", "true")
    chat.wait()
    expect(chat.find("article.assistant")).to_have_attribute("aria-busy", "false")
    assert chat.texts[0] == "Count from 2 to 7."
    assert "Count from 2 to 7." in chat.texts[1]
    expect(chat.find("article.assistant .stats")).to_have_text(
        re.compile(r"TTFT \d+ ms · 80 tokens · [\d.]+ tokens/s · ended by the token limit")
    )
    expect(chat.find("#input")).to_be_focused()
    expect(chat.find("#input")).to_have_value("")


def test_the_text_is_the_servers_own_to_the_byte(chat: Chat, gateway: Gateway) -> None:
    """Against the same request without a stream."""
    asked = "Ünïcödé 漢字 🦙\n\n  indented\n"
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.ask(asked)
    body = {**sent.value.post_data_json, "stream": False}
    del body["stream_options"]
    headers = {"content-type": "application/json"}
    answer = chat.page.request.post(
        f"{gateway.url}/v1/chat/completions", data=json.dumps(body), headers=headers
    ).json()
    assert chat.raw[1]["text"] == answer["choices"][0]["message"]["content"]
    assert chat.raw[1]["stats"]["tokens"] == answer["usage"]["completion_tokens"]


def test_later_messages_carry_the_conversation(chat: Chat) -> None:
    chat.ask("one")
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.ask("two")
    messages = sent.value.post_data_json["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]
    assert [messages[0]["content"], messages[2]["content"]] == ["one", "two"]
    assert messages[1]["content"] == chat.raw[1]["text"]


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_keeps_the_text_and_ends_the_request(
    new_chat: NewChat, triton: ServerProcess, way: str
) -> None:
    chat = new_chat(max_tokens=LONG)
    chat.send("Tell me a long story.")
    expect(chat.find("article.assistant .text")).to_contain_text("Tell me")
    if way == "button":
        chat.button("Stop").click()
    else:
        chat.page.keyboard.press("Escape")
    chat.wait()
    expect(chat.find("article.assistant")).to_contain_text("Stopped")
    assert "Tell me" in chat.raw[1]["text"]
    assert chat.raw[1]["state"] == "stopped"
    running = "llama_fp4_active_requests"
    eventually(lambda: figure(triton, running) == 0, "the server's request has ended")


def test_regenerate_keeps_both_answers(chat: Chat) -> None:
    chat.ask("one")
    chat.button("Regenerate").click()
    chat.wait()
    expect(chat.find("article.assistant .under")).to_contain_text("2 / 2")
    chat.button("Previous version").click()
    expect(chat.find("article.assistant .under")).to_contain_text("1 / 2")
    expect(chat.button("Next version")).to_be_focused()  # the other one is disabled now
    chat.page.reload()
    expect(chat.find("article.assistant .under")).to_contain_text("1 / 2")


def test_edit_asks_anew_and_loses_nothing(chat: Chat) -> None:
    chat.ask("first words")
    chat.ask("second words")
    chat.button("Edit").first.click()
    expect(chat.find(".edit textarea")).to_be_focused()
    chat.find(".edit textarea").fill("other words")
    chat.page.keyboard.press("Enter")
    chat.wait()
    assert len(chat.texts) == 2
    assert chat.texts[0] == "other words"
    assert "other words" in chat.texts[1]
    chat.button("Previous version").click()
    assert [chat.texts[0], chat.texts[2]] == ["first words", "second words"]


def test_an_edit_waits_for_the_answer_that_is_being_written(new_chat: NewChat) -> None:
    chat = new_chat(max_tokens=LONG)
    chat.send("first words")
    expect(chat.find("article.assistant .text")).to_contain_text("first words")
    chat.button("Edit").click()
    chat.page.keyboard.type(" and more")
    chat.page.keyboard.press("Enter")
    expect(chat.find("#notices")).to_contain_text("stop it first")
    expect(chat.find(".edit textarea")).to_have_value("first words and more")
    chat.button("Stop").click()
    chat.wait()
    chat.settings(max_tokens="20")
    chat.find(".edit textarea").press("Enter")
    chat.wait()
    assert chat.texts[0] == "first words and more"


def test_escape_leaves_an_edit(chat: Chat) -> None:
    chat.ask("words")
    chat.button("Edit").click()
    chat.find(".edit textarea").fill("other")
    chat.page.keyboard.press("Escape")
    expect(chat.button("Edit")).to_be_focused()
    assert chat.texts[0] == "words"
    assert len(chat.raw) == 2


def test_copy_gives_the_markdown_and_the_code(chat: Chat) -> None:
    code = "x = 1\n\tif x < 2: print('`')\n"
    chat.ask(f"Look:\n\n```python\n{code}```\n\nend")
    clipboard = "navigator.clipboard.readText()"
    chat.button("Copy this code").first.click()
    expect(chat.find(".code button").first).to_have_text("Copied")
    assert chat.page.evaluate(clipboard) == code
    chat.find("article.assistant .under").get_by_role("button", name="Copy").click()
    expect(chat.find("article.assistant .under")).to_contain_text("Copied")
    assert chat.page.evaluate(clipboard) == chat.raw[1]["text"]


def test_copy_works_without_the_clipboards_api(chat: Chat) -> None:
    """Browsers have it only in secure contexts: not over plain HTTP from another machine."""
    chat.ask("word")
    hide = "Object.defineProperty(navigator, 'clipboard', { configurable: true, value: undefined })"
    chat.page.evaluate(hide)
    chat.find("article.user .under").get_by_role("button", name="Copy").click()
    expect(chat.find("article.user .under")).to_contain_text("Copied")
    chat.page.evaluate("delete navigator.clipboard")
    assert chat.page.evaluate("navigator.clipboard.readText()") == "word"


def test_the_log_follows_only_a_reader_at_its_end(new_chat: NewChat) -> None:
    chat = new_chat(max_tokens=LONG)
    chat.send("line\n\n" * 60)
    at_end = (
        "(() => { const { scrollHeight, scrollTop, clientHeight } = document.getElementById('log');"
        " return scrollHeight - scrollTop - clientHeight < 48 && scrollTop > 0; })()"
    )
    length = "document.querySelector('article.assistant .text').childNodes.length"
    chat.until(f"{length} > 30")
    assert chat.page.evaluate(at_end)
    chat.find("#log").hover()
    chat.page.mouse.wheel(0, -600)
    expect(chat.find("#latest")).to_be_visible()
    before = chat.page.evaluate("document.getElementById('log').scrollTop")
    now = chat.page.evaluate(length)
    chat.until(f"{length} > {now} + 3")
    assert chat.page.evaluate("document.getElementById('log').scrollTop") == before
    chat.button("Jump to the latest").click()
    chat.until(at_end)
    chat.button("Stop").click()


def test_blocks_that_are_complete_are_not_built_again(new_chat: NewChat) -> None:
    """What keeps a long stream smooth."""
    chat = new_chat(max_tokens=LONG)
    chat.send("# A heading\n\n- an item\n\n```\ncode\n```\n\na paragraph\n\n" * 5)
    text = "document.querySelector('article.assistant .text')"
    chat.until(f"{text}.querySelectorAll('.code').length > 1")
    chat.page.evaluate(f"window.first = [...{text}.querySelectorAll('li, .code')].slice(0, 2)")
    chat.until(f"{text}.querySelectorAll('.code').length > 3")
    assert chat.page.evaluate("first.every((element) => element.isConnected)")
    chat.button("Stop").click()


# ---- Conversations


def test_several_conversations_run_at_once_and_stay(new_chat: NewChat) -> None:
    chat = new_chat(max_tokens=300)
    chat.send("apples")
    chat.button("New conversation").click()
    chat.send("pears")
    expect(chat.find("#list a.running")).to_have_count(2)
    chat.find("#list").get_by_role("link", name="apples").click()
    assert chat.texts[0] == "apples"
    chat.wait()
    expect(chat.find("#list a.running")).to_have_count(0)
    chat.page.reload()
    assert sorted(chat.find("#list a").all_inner_texts()) == ["apples", "pears"]
    assert "apples" in chat.texts[1]
    chat.page.go_back()
    expect(chat.find("article.user .text")).to_have_text("pears")


def test_a_conversation_is_renamed_and_deleted(chat: Chat) -> None:
    chat.ask("apples")
    chat.menu("Rename …")
    expect(chat.find("#ask-input")).to_be_focused()
    chat.page.keyboard.type("Fruit")
    chat.page.keyboard.press("Enter")
    expect(chat.find("#title")).to_have_text("Fruit")
    assert chat.find("#list a").all_inner_texts() == ["Fruit"]
    chat.menu("Delete …")
    expect(chat.find("#ask")).to_contain_text("Delete “Fruit”?")
    chat.button("Cancel").click()
    expect(chat.find("#list a")).to_have_count(1)
    chat.menu("Delete …")
    chat.button("Delete").click()
    expect(chat.find("#list a")).to_have_count(0)
    assert chat.page.evaluate("Object.keys(localStorage).filter((k) => k.includes('chat'))") == []


def test_reload_in_mid_stream_keeps_what_came(new_chat: NewChat) -> None:
    chat = new_chat(max_tokens=LONG)
    chat.send("Tell me a long story.")
    expect(chat.find("article.assistant .text")).to_contain_text("Tell me a long story.")
    chat.page.reload()
    expect(chat.find("article.assistant .text")).to_contain_text("Tell me a long story.")
    expect(chat.find("article.assistant .problem")).to_contain_text("not complete")
    chat.settings(max_tokens="40")
    chat.button("Retry").click()
    chat.wait()
    expect(chat.find("article.assistant .under")).to_contain_text("2 / 2")


def test_a_draft_outlives_a_reload_and_another_conversation(chat: Chat) -> None:
    chat.ask("apples")
    chat.type("half a thought")
    chat.button("New conversation").click()
    expect(chat.find("#input")).to_have_value("")
    chat.find("#list a").click()
    expect(chat.find("#input")).to_have_value("half a thought")
    chat.page.reload()
    expect(chat.find("#input")).to_have_value("half a thought")


def test_two_tabs_keep_each_others_messages(new_chat: NewChat) -> None:
    one = new_chat(max_tokens=150)
    one.ask("apples")
    other = new_chat(beside=one, url=one.page.url)
    expect(other.find("article")).to_have_count(2)
    one.send("from the first")
    other.send("from the second")
    one.wait()
    other.wait()
    for tab in (one, other):
        eventually(
            lambda tab=tab: (  # type: ignore[misc]
                {node["text"] for node in tab.raw if node["role"] == "user"}
                == {"apples", "from the first", "from the second"}
                and all(node["state"] == "done" for node in tab.raw)
            ),
            "the messages of both tabs are stored, whole",
        )


def test_a_tab_that_has_not_heard_keeps_the_others_messages(
    new_chat: NewChat, gateway: Gateway
) -> None:
    """The browser tells tabs of each other's writes a moment later."""
    one = new_chat()
    one.ask("apples")
    deaf = "addEventListener('storage', (event) => event.stopImmediatePropagation())"
    one.page.context.add_init_script(deaf)
    other = new_chat(beside=one, url=one.page.url)
    expect(other.find("article")).to_have_count(2)
    one.ask("from the first")
    assert len(other.texts) == 2
    one.page.goto(f"{gateway.url}/health")  # where it would hear, and add what is missing
    other.ask("from the second")
    asked = {node["text"] for node in other.raw if node["role"] == "user"}
    assert asked == {"apples", "from the first", "from the second"}


def test_another_tab_shows_what_is_written(new_chat: NewChat) -> None:
    one = new_chat()
    one.ask("apples")
    other = new_chat(beside=one, url=one.page.url)
    one.ask("pears")
    eventually(lambda: other.texts == one.texts, "both tabs show the same four messages")
    assert len(other.texts) == 4
    one.settings(max_tokens=str(LONG))
    one.send("plums")
    expect(one.find("article.assistant .text")).to_have_count(3)
    expect(other.find("article.assistant .text")).to_have_count(3)
    expect(other.find("article.assistant .text").last).to_contain_text("system")  # while it runs
    expect(one.find("#stop")).to_be_visible()
    one.button("Stop").click()
    one.wait()
    one.menu("Delete …")
    one.button("Delete").click()
    expect(other.find("article")).to_have_count(0)
    expect(other.find("#notices")).to_contain_text("deleted in another tab")


@pytest.mark.parametrize("by", ["this tab", "another tab"])
def test_what_is_deleted_while_it_is_written_stays_deleted(new_chat: NewChat, by: str) -> None:
    one = new_chat(max_tokens=LONG)
    one.send("Tell me a long story.")
    expect(one.find("article.assistant .text")).to_contain_text("Tell me a long story.")
    deleting = one if by == "this tab" else new_chat(beside=one, url=one.page.url)
    deleting.menu("Delete …")
    deleting.button("Delete").click()
    expect(one.find("article")).to_have_count(0)
    expect(one.find("#said")).to_have_text("Stopped")
    one.page.reload()
    expect(one.find("#server")).to_have_class("up")
    assert one.find("#list a").count() == 0


def test_a_full_storage_is_said_and_loses_nothing_on_the_screen(chat: Chat) -> None:
    chat.page.evaluate("localStorage.setItem('ballast', 'x'.repeat(5 * 1024 * 1024 - 4000))")
    chat.ask("a long question " * 200)
    expect(chat.find("#notices")).to_contain_text("storage is full")
    assert "a long question" in chat.texts[1]
    chat.ask("more")
    assert len(chat.texts) == 4


# ---- Export and import


def exported(chat: Chat, name: str = "Export all") -> Path:
    with chat.page.expect_download() as download:
        chat.menu(name)
    return Path(download.value.path())


def test_export_and_import_give_the_same(new_chat: NewChat) -> None:
    chat = new_chat()
    chat.ask("apples")
    chat.button("Regenerate").click()
    chat.wait()
    chat.button("New conversation").click()
    chat.ask("pears")
    chats = (
        "Object.entries(localStorage).filter(([key]) => key.includes('chat')).sort()"
        ".map(([, value]) => JSON.parse(value))"
    )
    before = chat.page.evaluate(chats)
    file = exported(chat)
    fresh = new_chat()
    fresh.find("#file").set_input_files(file)
    expect(fresh.find("#notices")).to_contain_text("Imported 2 conversations.")
    after = fresh.page.evaluate(chats)
    for each in [*before, *after]:
        del each["updated"]
    assert after == before
    fresh.find("#list").get_by_role("link", name="apples").click()
    expect(fresh.find("article.assistant .under")).to_contain_text("2 / 2")
    fresh.find("#file").set_input_files(file)  # once more: nothing doubles
    expect(fresh.find("#list a")).to_have_count(2)
    assert len(fresh.raw) == 3


def test_one_conversation_is_exported_alone(chat: Chat) -> None:
    chat.ask("apples")
    chat.button("New conversation").click()
    chat.ask("pears")
    document = json.loads(exported(chat, "Export this conversation").read_text(encoding="utf-8"))
    assert [each["title"] for each in document["conversations"]] == ["pears"]


def message(**changes: Any) -> dict[str, Any]:
    return {"id": "m1", "parent": None, "role": "user", "text": "hi", "state": "done", **changes}


def conversation(*nodes: Any, **changes: Any) -> dict[str, Any]:
    leaf = nodes[-1]["id"] if nodes and isinstance(nodes[-1], dict) else None
    given = {"id": "c1", "title": "T", "leaf": leaf, "nodes": list(nodes)}
    return {**given, **changes}


def document(*conversations: Any, version: Any = 1) -> str:
    return json.dumps({"version": version, "conversations": conversations})


WRONG_FILES = {
    "not json": ("{", "it is not JSON"),
    "empty": ("", "it is not JSON"),
    "null": ("null", "it was not exported by this page"),
    "another version": (document(version=2), "it was not exported by this page"),
    "null inside": (document(None), 'no valid "id"'),
    "path as id": (document(conversation(id="../x")), 'no valid "id"'),
    "title": (document(conversation(title=["x"])), '"title" must be text'),
    "nodes": (document(conversation(nodes={})), '"nodes" must be a list'),
    "parent": (document(conversation(message(parent="m1"))), '"parent" must be'),
    "twice": (document(conversation(message(), message(parent="m1"))), '"id" must be unique'),
    "role": (document(conversation(message(role="system"))), '"role" must be'),
    "text": (document(conversation(message(text={"toString": 1}))), '"text" must be text'),
    "leaf": (document(conversation(message(), leaf="m2")), '"leaf" must be'),
    "second of two": (document(conversation(), conversation(id=7)), 'no valid "id"'),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_is_refused_whole(chat: Chat, name: str, tmp_path: Path) -> None:
    content, sentence = WRONG_FILES[name]
    file = tmp_path / "wrong.json"
    file.write_text(content, encoding="utf-8")
    chat.find("#file").set_input_files(file)
    expect(chat.find("#notices")).to_contain_text("wrong.json cannot be imported: ")
    expect(chat.find("#notices")).to_contain_text(sentence)
    assert chat.find("#list a").count() == 0
    assert chat.page.evaluate("Object.keys(localStorage)") == ["llama-fp4.settings"]


# ---- Settings and looks


def test_settings_reach_the_request_and_stay_with_the_conversation(chat: Chat) -> None:
    chat.ask("apples")
    values = {"temperature": "0.25", "top_p": "0.9", "top_k": "40", "max_tokens": "8", "seed": "7"}
    chat.button("New conversation").click()
    chat.settings(**values, system="Be brief.")
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.ask("pears")
    body = sent.value.post_data_json
    wanted = {"temperature": 0.25, "top_p": 0.9, "top_k": 40, "max_completion_tokens": 8, "seed": 7}
    assert {name: body[name] for name in wanted} == wanted
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    chat.find("#list").get_by_role("link", name="apples").click()
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.ask("more")
    body = sent.value.post_data_json
    assert not {"temperature", "top_p", "top_k", "seed"} & set(body)
    assert body["messages"][0]["role"] == "user"


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "2.1"), ("temperature", "-1"), ("top_p", "0"), ("top_p", "1.5"),
     ("top_k", "0"), ("top_k", "1.5"), ("max_tokens", "0"), ("seed", "-1"), ("seed", "9e99")],
)  # fmt: skip
def test_a_wrong_setting_is_refused_in_the_form(chat: Chat, name: str, value: str) -> None:
    chat.settings(**{name: value})
    expect(chat.find("#settings")).to_be_visible()
    assert chat.page.evaluate("document.activeElement.name") == name
    chat.page.keyboard.press("Escape")
    expect(chat.find("#settings")).to_be_hidden()
    expect(chat.button("Settings")).to_be_focused()


def test_dark_and_light_follow_the_system_until_one_is_chosen(chat: Chat) -> None:
    def background() -> str:
        return str(chat.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    chat.page.emulate_media(color_scheme="light")
    light = background()
    chat.page.emulate_media(color_scheme="dark")
    dark = background()
    assert light == "rgb(255, 255, 255)"
    assert dark != light
    chat.button("Theme: system").click()
    assert background() == light
    chat.page.reload()
    assert background() == light
    chat.button("Theme: light").click()
    chat.page.emulate_media(color_scheme="light")
    assert background() == dark
    chat.button("Theme: dark").click()
    assert background() == light


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_is_wider_than_the_screen(new_chat: NewChat, size: dict[str, int]) -> None:
    chat = new_chat(viewport=size, max_tokens=400)
    wide = "x" * 200
    chat.ask(f"{wide}\n\n# {wide}\n\n```\n{wide}\n```\n\n|{wide}|b|\n|---|---|\n|1|2|\n\n")
    wider = (
        "[...document.querySelectorAll('article, article .text, header, #composer, .code, .table')]"
        ".filter((each) => each.getBoundingClientRect().right > innerWidth).length"
    )
    assert chat.page.evaluate(wider) == 0
    assert chat.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    chat.button("Settings").click()
    assert chat.page.evaluate(wider) == 0


def test_on_a_phone_the_list_is_a_drawer(new_chat: NewChat) -> None:
    chat = new_chat(viewport=PHONE)
    chat.ask("apples")
    expect(chat.find("#list a")).to_be_hidden()
    chat.button("Conversations").click()
    expect(chat.button("New conversation")).to_be_focused()
    chat.page.keyboard.press("Escape")
    expect(chat.find("#list a")).to_be_hidden()
    chat.button("Conversations").click()
    chat.button("New conversation").click()
    expect(chat.find("#list a")).to_be_hidden()
    chat.button("Conversations").click()
    chat.find("#list a").click()
    expect(chat.find("#list a")).to_be_hidden()
    assert chat.texts[0] == "apples"


# ---- The keyboard


def test_enter_sends_but_not_while_composing_nor_with_shift(chat: Chat) -> None:
    chat.type("にほん")
    compose = (
        "(more) => document.getElementById('input').dispatchEvent(new KeyboardEvent('keydown',"
        " { key: 'Enter', bubbles: true, cancelable: true, ...more }))"
    )
    for more in ({"isComposing": True}, {"keyCode": 229}):
        assert chat.page.evaluate(compose, more)  # true: the browser's own handling goes on
    chat.find("#input").press("End")
    chat.page.keyboard.press("Shift+Enter")
    chat.page.keyboard.type("ご")
    assert chat.find("article").count() == 0
    chat.page.keyboard.press("Enter")
    chat.wait()
    assert chat.texts[0] == "にほん\nご"


def test_everything_can_be_reached_by_keyboard(chat: Chat) -> None:
    chat.ask("apples")
    chat.find("#skip").focus()
    reached = []
    name = (
        "((e) => e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent)"
        "(document.activeElement)"
    )
    for _ in range(30):
        reached.append(chat.page.evaluate(name))
        visible = "getComputedStyle(document.activeElement)"
        if reached[-1] != "Message":  # its frame shows the focus
            assert chat.page.evaluate(f"{visible}.outlineStyle") != "none"
        chat.page.keyboard.press("Tab")
        if chat.page.evaluate("document.activeElement === document.body"):
            break
    wanted = [
        "Skip to the message field",
        "New conversation",
        "apples",
        "Theme: system",
        "Settings",
    ]
    wanted += ["More", "Conversation", "Copy", "Edit", "Copy", "Regenerate", "Message", "Send"]
    assert [each for each in reached if each in wanted] == wanted


def test_a_conversation_by_keyboard_alone(chat: Chat) -> None:
    keyboard = chat.page.keyboard
    keyboard.type("apples")  # the field has the focus from the start
    keyboard.press("Enter")
    chat.wait()
    keyboard.press("Shift+Tab")  # Regenerate
    keyboard.press("Enter")
    chat.wait()
    expect(chat.find("article.assistant .under")).to_contain_text("2 / 2")
    chat.button("More").focus()
    keyboard.press("Enter")
    keyboard.press("Tab")
    expect(chat.button("Rename …")).to_be_focused()
    keyboard.press("Escape")
    expect(chat.find("#menu")).to_be_hidden()


def test_a_dialog_traps_the_focus(chat: Chat) -> None:
    chat.button("Settings").click()
    inside = (
        "document.activeElement === document.body || !!document.activeElement.closest('#settings')"
    )
    for key in ("Tab", "Shift+Tab"):
        for _ in range(14):
            chat.page.keyboard.press(key)
            assert chat.page.evaluate(inside)
    chat.page.keyboard.press("Escape")
    expect(chat.button("Settings")).to_be_focused()


def test_every_control_has_a_name(chat: Chat) -> None:
    chat.ask("apples")
    controls = "[...document.querySelectorAll('button, input, textarea, select, [tabindex=\"0\"]')]"
    named = (
        "(e) => e.ariaLabel || e.textContent.trim() || e.labels?.length || e.localName === 'pre'"
    )
    nameless = (
        f"{controls}.filter((e) => e.checkVisibility() && !({named})(e)).map((e) => e.outerHTML)"
    )
    assert chat.page.evaluate(nameless) == []


# ---- Errors


def test_a_server_that_goes_is_said_and_retry_works(
    new_chat: NewChat, triton: ServerProcess, tmp_path: Path
) -> None:
    gateway = start_gateway(triton.ports.url("grpc"), tmp_path)
    try:
        chat = new_chat(url=gateway.url, max_tokens=LONG)
        chat.send("Tell me a long story.")
        expect(chat.find("article.assistant .text")).to_contain_text("Tell me a long story.")
        gateway.process.kill()
        gateway.process.wait()
        chat.wait()
        problem = chat.find("article.assistant .problem")
        expect(problem).to_have_text("The connection broke before the answer was complete.")
        assert "Tell me a long story." in chat.texts[1]
        chat.settings(max_tokens="20")
        chat.ask("Are you there?")
        expect(problem.last).to_contain_text("The server does not answer.")
        expect(chat.find("#server")).to_have_class("down")
        gateway = start_gateway(triton.ports.url("grpc"), tmp_path, port=gateway.port)
        chat.button("Retry").last.click()
        chat.wait()
        expect(problem).to_have_count(1)
        assert [node["text"] for node in chat.raw[2:3]] == ["Are you there?"]
        assert chat.raw[3]["state"] == "done"
        expect(chat.find("#server")).to_have_class("up")
    finally:
        gateway.stop()


def test_a_busy_server_is_said(new_chat: NewChat, triton: ServerProcess, tmp_path: Path) -> None:
    with gateway_of(triton, tmp_path, "--max-requests", "1") as gateway:
        first = new_chat(url=gateway.url, max_tokens=LONG)
        first.send("Tell me a long story.")
        expect(first.find("article.assistant .text")).to_contain_text("Tell me")
        second = new_chat(url=gateway.url)
        second.ask("And me?")
        expect(second.find(".problem")).to_contain_text("The server is busy")
        expect(second.find(".problem")).to_contain_text("Try again in 1 s.")
        first.button("Stop").click()
        second.button("Retry").click()
        second.wait()
        expect(second.find(".problem")).to_have_count(0)
        assert len(second.raw) == 2
        assert second.raw[1]["state"] == "done"


@pytest.mark.parametrize(
    ("kind", "body", "sentence"),
    [
        ("text/event-stream", EVENT, "The connection ended before the answer was complete."),
        ("text/event-stream", f"{EVENT}data: {{", "The connection ended before"),
        ("text/event-stream", f"{EVENT}data: {{\n\n", "The connection broke before"),
        ("text/html", "<h1>Gateway</h1>", "The server's answer is not a stream."),
    ],
)
def test_what_a_proxy_does_to_a_stream_is_said(
    chat: Chat, kind: str, body: str, sentence: str
) -> None:
    chat.page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type=kind)
    )
    chat.ask("apples")
    expect(chat.find(".problem")).to_contain_text(sentence)
    assert chat.raw[1]["text"] == ("Half of" if body.startswith(EVENT) else "")


def test_a_missing_key_is_asked_for(
    new_chat: NewChat, triton: ServerProcess, tmp_path: Path
) -> None:
    command = (sys.executable, "-m", "llama_fp4", "gateway", "--new-key", "me")
    made = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    keys = tmp_path / "keys.txt"
    keys.write_text(made.stdout, encoding="utf-8")
    key = made.stderr.split()[-1]
    with gateway_of(triton, tmp_path, "--api-keys", str(keys)) as gateway:
        chat = new_chat(url=gateway.url)
        chat.ask("Let me in.")
        expect(chat.find(".problem")).to_contain_text("The server needs an API key.")
        chat.find(".problem input").fill("wrong")
        chat.button("Save and retry").click()
        expect(chat.find(".problem")).to_contain_text("The server refuses this API key.")
        chat.find(".problem input").fill(key)
        chat.page.keyboard.press("Enter")
        expect(chat.find(".problem")).to_have_count(0)
        chat.wait()
        assert "Let me in." in chat.raw[1]["text"]
        expect(chat.find("#server")).to_have_class("up")
        assert key not in json.dumps(chat.page.evaluate("({ ...localStorage })"))
        assert key not in exported(chat).read_text(encoding="utf-8")
        chat.page.reload()
        chat.ask("Once more.")
        expect(chat.find(".problem")).to_have_count(0)


def test_an_engine_that_dies_is_said(
    new_chat: NewChat, tmp_path: Path, slow_server: ServerProcess
) -> None:
    """An error in mid-stream."""
    with gateway_of(slow_server, tmp_path) as gateway:
        chat = new_chat(url=gateway.url, max_tokens=LONG)
        chat.send("Tell me a long story.")
        expect(chat.find("article.assistant .text")).to_contain_text("Tell me a long story.")
        os.kill(engine_of(slow_server.pid), signal.SIGKILL)
        chat.wait()
        expect(chat.find("article.assistant .problem")).to_contain_text("engine")
        assert "Tell me a long story." in chat.texts[1]
        assert chat.raw[1]["state"] == "error"


def test_a_refused_request_shows_the_servers_sentence(new_chat: NewChat) -> None:
    chat = new_chat(max_tokens=100_000)
    chat.ask("apples")
    expect(chat.find(".problem")).to_contain_text("(HTTP 400)")
    expect(chat.find(".problem")).to_contain_text("max_completion_tokens")


# ---- Texts that want to be more than text


def forbidden(chat: Chat) -> int:
    """Elements that no text may make, and attributes that run scripts."""
    found: int = chat.page.evaluate(
        "[...document.querySelectorAll('#log *, #list *, #title *, #notices *')].filter((e) =>"
        " ['IMG', 'SCRIPT', 'IFRAME', 'STYLE', 'SVG', 'B', 'DETAILS', 'OBJECT'].includes(e.tagName)"
        " || [...e.attributes].some(({ name }) => name.startsWith('on'))"
        " || (e.localName === 'a' && e.closest('#log') && !/^https?:$/.test(e.protocol))).length"
    )
    return found


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_stays_text(new_chat: NewChat, text: str) -> None:
    """As the user's, the model's (which plays the prompt back), the system prompt and the title."""
    chat = new_chat(max_tokens=250)
    chat.settings(system=text)
    sent = text.replace("\0", "")  # the server refuses U+0000
    chat.ask(f"{sent}\n\n")
    assert sent.splitlines()[0].split()[0] in chat.raw[1]["text"]
    chat.menu("Rename …")
    chat.find("#ask-input").fill(text)
    chat.page.keyboard.press("Enter")
    expect(chat.find("#ask")).to_be_hidden()
    assert forbidden(chat) == 0
    chat.button("Edit").click()
    assert forbidden(chat) == 0
    chat.page.reload()
    chat.wait()
    assert forbidden(chat) == 0
    for link in chat.find("#log a").all():
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"


def test_an_imported_file_stays_text(chat: Chat, tmp_path: Path) -> None:
    evil = "\n\n".join(HOSTILE)
    problem = {"text": evil, "status": 401}
    nodes = [
        message(text=evil),
        message(id="m2", parent="m1", role="assistant", text=evil, state=evil, problem=problem,
                stats={"ttft": evil, "tokens": evil, "rate": {}, "finish": evil}),
    ]  # fmt: skip
    given = conversation(*nodes, title=evil, settings={"model": evil, "system": evil, "seed": evil})
    given["__proto__"] = {"polluted": 1}
    file = tmp_path / "<img src=x onerror=alert(1)>.json"
    file.write_text(document(given), encoding="utf-8")
    chat.find("#file").set_input_files(file)
    chat.find("#list a").click()
    expect(chat.find("article")).to_have_count(2)
    assert forbidden(chat) == 0
    assert chat.page.evaluate("({}).polluted") is None
    chat.button("Settings").click()
    assert forbidden(chat) == 0


def test_the_policy_forbids_everything_else(chat: Chat, gateway: Gateway) -> None:
    """Even if a text became markup, it could still not run or reach out."""
    headers = chat.page.request.get(gateway.url).headers
    policy = headers["content-security-policy"]
    assert {"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(
        policy.split("; ")
    )
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    tries = (
        "const s = document.createElement('script'); s.append('window.ran = 1');"
        " document.body.append(s)",
        "document.body.append(Object.assign(new Image(), { src: 'https://example.org/x.png' }))",
        "fetch('https://example.org/').catch(() => {})",
        "document.body.setAttribute('onclick', 'window.ran = 1'); document.body.click()",
    )
    for code in tries:
        chat.page.evaluate(f"() => {{ try {{ {code} }} catch {{}} }}")
    assert chat.page.evaluate("window.ran") is None
    eventually(lambda: len(chat.page.evaluate("breaches")) >= 3, "the policy's breaches are told")
    chat.page.evaluate("breaches.length = 0")
    chat.faults.clear()  # Chromium tells of requests that it then blocks
