"""The admin's page in Chromium: no error, nothing from elsewhere, as wide as the screen; its buttons work."""

from __future__ import annotations

from typing import Any

import pytest
from console.conftest import CREATED, Console
from e2e.browser import chromium

pytestmark = pytest.mark.e2e
PATHS = ("/", f"/projects/1.{CREATED}", f"/projects/1.{CREATED}/tag?name=red", f"/projects/1.{CREATED}/report", "/docs")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view(corrected: Console, width: int, scheme: Any) -> None:
    base = str(corrected.client.base_url).rstrip("/")
    said: list[str] = []
    asked: list[str] = []
    with chromium() as browser:
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        for path in PATHS:
            page.goto(base + path)
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert [url for url in asked if not url.startswith((base, "data:"))] == []


def test_buttons_and_form(corrected: Console) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{corrected.client.base_url}/projects/1.{CREATED}")
        page.click("text=Train now")
        page.wait_for_selector("#message:has-text('queued')")
        page.fill("input[name=threshold]", "2")
        page.click("text=Save")
        page.wait_for_selector("#message.bad:has-text('0 to 1')")
        page.fill("input[name=threshold]", "0.3")
        page.click("text=Save")
        page.wait_for_selector("#message:has-text('Saved')")
        page.select_option("select[name=kind]", "refresh")
        page.fill("input[name=cron]", "0 4 * * *")
        page.click("button:has-text('Schedule')")
        page.wait_for_selector("#message:has-text('next at')")
    assert [each.kind for each in corrected.jobs.schedules.schedules(corrected.key)] == ["refresh"]
    assert [job.kind for job in corrected.jobs.table.jobs(corrected.key)] == ["train"]
    (project,) = corrected.jobs.projects.changes().projects
    assert project.admin_options.threshold == 0.3
