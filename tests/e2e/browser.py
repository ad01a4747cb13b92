"""Label Studio as a person sees it, in Chromium."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from e2e.reading import confidences, tags
from support.studio_api import newest

from ram_backend.cli.servers import Account

TIMEOUT_MS = 90_000
REST_MS = 700
ARGUMENTS = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
CONFIDENCE = "[data-testid=htx-textbox-content]"
SUBMIT = "button[aria-label^='submit' i], button:has-text('Submit')"
_LINE = re.compile(r"(.+?)\s+(\d{1,3})%")

READABLE = """() => {
    const readable = (element) => element.checkVisibility({opacityProperty: true, visibilityProperty: true})
        && element.getBoundingClientRect().width > 0;
    const all = (selector, text, shows = (element) => element) =>
        [...document.querySelectorAll(selector)].filter((element) => readable(shows(element))).map(text);
    const text = (element) => element.innerText.trim();
    const label = (box) => box.closest("label");
    return {
        ticked: all(
            ".lsf-choice__checkbox input:checked", (box) => text(label(box)).replace(/\\s*\\[.\\]$/, ""), label),
        chosen: all(".htx-taxonomy .ant-select-selection-item", text),
        lines: all("[data-testid=htx-textbox-content]", text),
        regions: all(".lsf-outliner-item", (item) => [
            item.querySelector(".lsf-outliner-item__title")?.innerText.trim() ?? "",
            item.querySelector(".lsf-outliner-item__control_type_score")?.innerText.trim() ?? "",
        ].join(" ")),
    };
}"""
Readable = dict[str, list[str]]
"""What a person can read: `ticked` boxes, `chosen` tags, `lines` of text, `regions` with their scores."""


class Seen(NamedTuple):
    """What an annotator reads on a task's page: ticked tags, and their percentages; None where a line is none."""

    task: int
    tags: list[str]
    confidences: dict[str, int | None]


class StudioPage:
    """A window of the browser in which the user is logged in."""

    def __init__(self, page: Any, url: str, artefacts: Path) -> None:
        self.page = page
        self.url = url
        self.artefacts = artefacts

    def open_task(self, project: int, task: int) -> Seen:
        """Opens a task as a click on its row in the Data Manager does."""
        self.page.goto(f"{self.url}/projects/{project}/data?task={task}")
        return self._read(task)

    def begin_stream(self, project: int) -> int:
        """Presses "Label All Tasks" in the Data Manager; returns the task that the label stream serves."""
        self.page.goto(f"{self.url}/projects/{project}/data")
        with self.page.expect_response(_is_next_task, timeout=TIMEOUT_MS) as served:
            self.page.get_by_role("button", name="Label All Tasks").click()
        return int(served.value.json()["id"])

    def open_stream(self, project: int) -> Seen:
        """What the first task of the label stream shows."""
        return self._read(self.begin_stream(project))

    def tick(self, tag: str) -> None:
        """Clicks a choice: ticks it, or takes its tick away."""
        whole = re.compile(rf"^\s*{re.escape(tag)}\s*(\[.\])?\s*$")
        self.page.locator("label", has_text=whole).first.click()

    def submit(self) -> None:
        """Presses Submit; Label Studio has stored the annotation, and told its webhooks, when this returns."""
        with self.page.expect_response(_is_submit, timeout=TIMEOUT_MS) as stored:
            self.page.locator(SUBMIT).first.click()
        assert stored.value.ok

    def submit_by_key(self) -> int:
        """Presses Ctrl+Enter in the label stream; returns the task that it serves next."""
        with self.page.expect_response(_is_next_task, timeout=TIMEOUT_MS) as served:
            self.page.keyboard.press("Control+Enter")
        return int(served.value.json()["id"])

    def wait_for_ticks(self, count: int) -> None:
        """Waits until so many boxes are ticked on a page that can be submitted."""
        self.page.locator(SUBMIT).first.wait_for(state="visible", timeout=TIMEOUT_MS)
        ticked = "document.querySelectorAll('.lsf-choice__checkbox input:checked').length"
        self.page.wait_for_function(f"{ticked} === {count}", timeout=TIMEOUT_MS)

    def screenshot(self, name: str) -> None:
        """Keeps what is in the window now, when the photo is there."""
        self.page.wait_for_function(
            "[...document.images].every(image => image.complete) && !document.querySelector('.lsf-image-progress')"
        )
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=self.artefacts / f"{name}.png")

    def readable(self) -> Readable:
        """What can be read when Submit is there and the page has come to rest."""
        self.page.locator(SUBMIT).first.wait_for(state="visible", timeout=TIMEOUT_MS)
        before: Readable | None = None
        for _ in range(TIMEOUT_MS // REST_MS):
            now: Readable = self.page.evaluate(READABLE)
            if now == before and any(now.values()):
                break
            before = now
            self.page.wait_for_timeout(REST_MS)
        return now

    def _read(self, task: int) -> Seen:
        self.page.locator(CONFIDENCE).first.wait_for(state="visible", timeout=TIMEOUT_MS)
        now = self.readable()
        matches = [(line, _LINE.fullmatch(line)) for line in now["lines"]]
        confidences = {match[1] if match else line: int(match[2]) if match else None for line, match in matches}
        return Seen(task, now["ticked"] + now["chosen"], confidences)


def agrees(seen: Seen, task: dict[str, Any]) -> None:
    """The page shows the newest prediction: each of its tags ticked, no other, each with its percentage."""
    prediction = newest(task)
    assert sorted(seen.tags) == sorted(tags(prediction))
    assert seen.confidences == confidences(prediction)
    assert sorted(seen.confidences) == sorted(seen.tags)
    assert seen.tags


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Starts Chromium; skips where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("Playwright is not installed: pip install playwright")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    arguments = [*ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_browser(url: str, account: Account, artefacts: Path) -> Iterator[StudioPage]:
    """Starts Chromium and logs in; screenshots go into that folder."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1320, "height": 860}, locale="en-GB")
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(f"{url}/user/login/")
        page.fill("input[name=email]", account.email)
        page.fill("input[name=password]", account.password)
        page.click("button[type=submit]")
        page.wait_for_url(lambda at: "/user/login" not in at)
        yield StudioPage(page, url, artefacts)


def _is_next_task(response: Any) -> bool:
    return "id=next_task" in response.url and response.request.method == "POST"


def _is_submit(response: Any) -> bool:
    return "/annotations" in response.url and response.request.method == "POST"
