"""The gateway's chat page in the system's Chromium, used as a person uses it.

A tab notes what must never happen: an error of the page's script, a script in a text that runs, a
breach of the Content-Security-Policy, a request to another origin.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from tests.support.processes import PATIENCE_S, eventually

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
WATCH = """
window.breaches = [];
addEventListener('securitypolicyviolation', (event) => breaches.push(event.violatedDirective));
"""
SETTINGS = "localStorage['llama-fp4.settings'] ??= '{\"max_tokens\": %d}'"


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser, started once for many tabs."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert path, "these tests need Chromium: run 'apt-get install chromium'"
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=PATIENCE_S * 1e3)
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


class Chat:
    """A tab with the page."""

    def __init__(self, context: BrowserContext, url: str, max_tokens: int = 80) -> None:
        """`max_tokens` is what new conversations ask for unless this browser has others."""
        self.faults: list[str] = []
        self._origin = url.partition("#")[0]
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_S * 1e3)
        self.page.add_init_script(WATCH + SETTINGS % max_tokens)
        self.page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.page.on("dialog", self._unwanted_dialog)
        self.page.on("request", self._note_request)
        self.page.goto(url)

    def _unwanted_dialog(self, dialog: Any) -> None:
        self.faults.append(f"a script ran: {dialog.message}")
        dialog.dismiss()

    def _note_request(self, request: Any) -> None:
        inside = request.url.startswith((self._origin, "blob:", "data:"))
        if not inside:
            self.faults.append(f"a request to {request.url}")

    def check(self) -> None:
        """Nothing happened that must not."""
        assert [*self.faults, *self.page.evaluate("breaches")] == []

    def find(self, selector: str) -> Locator:
        """Elements, by CSS."""
        return self.page.locator(selector)

    def button(self, name: str) -> Locator:
        """Buttons, by their accessible name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def type(self, text: str) -> None:
        """Put a text into the message field."""
        self.find("#input").fill(text)

    def send(self, text: str) -> None:
        """Send a message with Enter; the answer begins."""
        self.type(text)
        self.page.keyboard.press("Enter")

    def ask(self, text: str) -> None:
        """Send a message and wait for the whole answer."""
        self.send(text)
        self.wait()

    def wait(self) -> None:
        """Until nothing is being written in this conversation."""
        expect(self.find("#send")).to_be_visible()

    def until(self, expression: str) -> None:
        """Until an expression holds. (Playwright's own way needs a policy that allows `eval`.)"""
        eventually(lambda: bool(self.page.evaluate(expression)), expression)

    @property
    def texts(self) -> list[str]:
        """Of the messages on the screen, oldest first."""
        texts: list[str] = self.find("article .text").all_inner_texts()
        return texts

    @property
    def raw(self) -> list[dict[str, Any]]:
        """The messages of the conversation as the browser stores them."""
        key = "'llama-fp4.chat.' + location.hash.slice(1)"
        nodes: list[dict[str, Any]] = self.page.evaluate(f"JSON.parse(localStorage[{key}]).nodes")
        return nodes

    def menu(self, name: str) -> None:
        """Choose from the menu "More"."""
        self.button("More").click()
        self.button(name).click()

    def settings(self, **values: str) -> None:
        """Fill fields of the settings, by their names, and save."""
        self.button("Settings").click()
        for name, value in values.items():
            self.find(f"#settings [name={name}]").fill(value)
        self.button("Save").click()
