"""Clicks and keys per photo, in each kind of label config, counted by the page itself."""

import re
from collections.abc import Callable

import pytest
from e2e.browser import REST_MS, StudioPage
from e2e.conftest import Installation, label_config
from e2e.reading import tags
from e2e.test_label_configs import add, take_away
from support.studio_api import StudioApi

from ram_backend.demo import familiar_first
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.schema import TagControl, choices_for, free_choice

COUNT = """() => {
    window.effort = 0;
    for (const kind of ["pointerdown", "keydown"]) window.addEventListener(kind, () => { window.effort += 1; }, true);
}"""
MISSING = "boat"
EFFORT = {
    "choices_with_confidence": (1, 2, 2),  # docs/label-configs.md has these numbers
    "taxonomy": (1, 2, 6),
    "free_tags": (1, 2, 7),
}
"""Of a photo whose ticks are right, that has a wrong one, that lacks one: the word's letters count."""


@pytest.mark.parametrize("name", EFFORT)
def test_clicks_and_keys(
    name: str, new_project: Callable[..., int], api: StudioApi, installation: Installation, studio_page: StudioPage
) -> None:
    config = label_config(name)
    (control,) = (each for each in parse_label_config(config).tag_controls if each.name == "tags")
    project = new_project(f"Effort {name}", config, list(familiar_first()[:3]), installation.server.url)
    counted = []
    for place, task in enumerate(api.tasks(project)):
        studio_page.page.goto(f"{studio_page.url}/projects/{project}/data?task={task['id']}")
        studio_page.readable()
        (prediction,) = api.call("GET", f"/api/tasks/{task['id']}")["predictions"]
        ticked = tags(prediction) if control.kind != "textarea" else prediction["result"][0]["value"]["text"]
        assert MISSING not in ticked
        studio_page.page.evaluate(COUNT)
        if place == 1:
            offered = {choice.label: choice for choice in choices_for(control, task["data"])}
            take_away(studio_page, control, offered.get(ticked[-1]) or free_choice(ticked[-1]))
        elif place == 2:
            find_and_add(studio_page, control)
        studio_page.page.wait_for_timeout(REST_MS)
        studio_page.submit()
        counted.append(studio_page.page.evaluate("window.effort"))
        (annotation,) = api.call("GET", f"/api/tasks/{task['id']}")["annotations"]
        said = [each["value"] for each in annotation["result"] if each["from_name"] == "tags"]
        assert (MISSING in str(said)) == (place == 2)
        assert place != 1 or len(str(said)) < len(str(ticked)) or ticked[-1] not in str(said)
    assert tuple(counted) == EFFORT[name]


def find_and_add(studio: StudioPage, control: TagControl) -> None:
    page = studio.page
    if control.kind == "taxonomy":
        page.locator(".htx-taxonomy .ant-select-selector").first.click()
        page.wait_for_function("document.activeElement.dataset.testid === 'taxonomy-search'")
        page.wait_for_timeout(REST_MS)
        page.keyboard.type(MISSING[:3], delay=100)
        page.locator(".ant-select-tree-title", has_text=re.compile(rf"^\s*{MISSING}\s*$")).first.click()
    elif control.free_text:
        page.locator("[data-testid=textarea-input]").first.click()
        page.keyboard.type(MISSING)
        page.keyboard.press("Enter")
    else:
        add(studio, control, MISSING)
