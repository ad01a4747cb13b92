"""Each file in label_configs/: what the model says is on the page, is corrected there, and is read back as said."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from e2e.browser import REST_MS, Readable, StudioPage
from e2e.conftest import Installation, label_config
from e2e.round_trips import ROUND_TRIPS
from support.processes import wait_until
from support.studio_api import StudioApi

from ram_backend.demo import photo_paths
from ram_backend.labelstudio.annotations import read_items, ticked_paths
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.schema import Choice, LabelSchema, TagControl, choices_for, free_choice

Said = Mapping[str, list[Choice]]
"""What a result says: control -> the choices that it names."""


def said_by(schema: LabelSchema, result: Iterable[object], data: Mapping[str, Any]) -> Said:
    items = read_items(result)
    found = {}
    for control in schema.tag_controls:
        known = {choice.path: choice for choice in choices_for(control, data)}
        paths = ticked_paths(control, items)
        found[control.name] = [free_choice(path[0]) if control.free_text else known[path] for path in paths]
    return found


def texts(schema: LabelSchema, said: Said) -> set[tuple[str, str]]:
    """Images and their tags."""
    controls = schema.tag_controls
    return {(each.to_name, text) for each in controls for choice in said[each.name] for text in choice.texts}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_what_is_shown_and_corrected_is_read_back(
    name: str, new_project: Callable[..., int], api: StudioApi, installation: Installation, studio_page: StudioPage
) -> None:
    trip, config = ROUND_TRIPS[name], label_config(name)
    schema = parse_label_config(config)
    controls = {control.name: control for control in schema.tag_controls}
    photos = [path for name in trip.photos for path in photo_paths() if path.name == name]
    tasks = photos if trip.data is None else [trip.data(photos)]
    url = installation.server.url
    project = new_project(f"Round trip {name}", config, tasks, url, extra_params=dict(trip.extra_params))
    (stored,) = api.tasks(project)

    studio_page.page.goto(f"{studio_page.url}/projects/{project}/data?task={stored['id']}")
    seen = {kind: sorted(found) for kind, found in studio_page.readable().items()}
    studio_page.screenshot(f"label-config-{name}")
    (stored,) = api.tasks(project)
    (prediction,) = stored["predictions"]
    before = said_by(schema, prediction["result"], stored["data"])
    assert before[trip.remove]
    assert seen == shown(schema, prediction["result"], before)

    take_away(studio_page, controls[trip.remove], before[trip.remove][-1])
    if trip.add is not None:
        add(studio_page, controls[trip.add[0]], trip.add[1])
    if trip.caption is not None:
        (was_written,) = seen["lines"]
        rewrite(studio_page, was_written, trip.caption)
    studio_page.page.wait_for_timeout(REST_MS)
    studio_page.screenshot(f"label-config-{name}-corrected")
    studio_page.submit()
    (stored,) = api.tasks(project)
    (annotation,) = stored["annotations"]
    after = said_by(schema, annotation["result"], stored["data"])
    assert before[trip.remove][-1] not in after[trip.remove]
    if trip.add is not None:
        assert trip.add[1] in [choice.label for choice in after[trip.add[0]]]

    was, now = texts(schema, before), texts(schema, after)
    pairs = {"confirmed": was & now, "added": now - was, "removed": was - now}
    expected = {state: sorted({tag for _, tag in found}) for state, found in pairs.items()}
    assert expected["removed"]
    row = correction(installation, project)
    assert {state: row[state] for state in expected} == expected
    assert row["model_version"] == prediction["model_version"]
    assert row["usable"]
    if trip.caption is not None:
        lines = installation.run("corrections", "export", str(project)).splitlines()
        (exported,) = [json.loads(line) for line in lines if line.startswith("{")]
        (caption,) = exported["captions"]
        assert (caption["shown"], caption["text"], caption["state"]) == (was_written, trip.caption, "edited")


def shown(schema: LabelSchema, result: list[dict[str, Any]], said: Said) -> Readable:
    """What of a prediction a person has to be able to read."""
    kinds = {control.name: control.kind for control in schema.tag_controls}

    def labels(kind: str) -> list[str]:
        return sorted(choice.label for name in kinds if kinds[name] == kind for choice in said[name])

    lines = [line for item in result if item["type"] == "textarea" for line in item["value"]["text"]]
    regions = [item for item in result if item["type"] in ("rectanglelabels", "labels")]
    return {
        "ticked": labels("choices"),
        "chosen": labels("taxonomy"),
        "lines": sorted(" ".join(line.split()) for line in lines),  # a page shows several blanks as one
        "regions": sorted(f"{item['value'][item['type']][0]} {item['score']:.2f}" for item in regions),
    }


def take_away(studio: StudioPage, control: TagControl, choice: Choice) -> None:
    """As annotators do with a tag that is wrong; of a single choice nothing, for another one takes its place."""
    page = studio.page
    whole = re.compile(rf"^\s*{re.escape(choice.label)}\s*$")
    if control.regions:
        page.locator(".lsf-outliner-item__title", has_text=whole).first.click()
        page.keyboard.press("Backspace")
    elif control.free_text:
        line = page.locator("[data-testid=textarea-region]", has_text=whole).first
        line.hover()
        line.locator("[data-testid=htx-textbox-delete-button]").click()
    elif control.kind == "taxonomy":
        chip = page.locator(".htx-taxonomy .ant-select-selection-item", has_text=whole).first
        chip.locator(".ant-select-selection-item-remove").click()
    elif not control.single:
        studio.tick(choice.label)


def rewrite(studio: StudioPage, line: str, text: str) -> None:
    """As annotators do with a caption: they delete it, and write their own."""
    shown = studio.page.locator("[data-testid=textarea-region]", has_text=line).first
    shown.hover()
    shown.locator("[data-testid=htx-textbox-delete-button]").click()
    field = studio.page.locator("[data-testid=textarea-input]").first
    field.fill(text)
    field.press("Enter")


def add(studio: StudioPage, control: TagControl, tag: str) -> None:
    page = studio.page
    if control.regions:
        page.locator(".lsf-label", has_text=re.compile(rf"^\s*{re.escape(tag)}\s*.?\s*$")).first.click()
        box = page.locator("canvas").first.bounding_box()
        assert box is not None
        page.keyboard.down("Control")  # Label Studio draws over other regions while it is held
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 160, box["y"] + 140, steps=5)
        page.mouse.up()
        page.keyboard.up("Control")
    elif control.free_text:
        field = page.locator(f"[data-testid=textarea-input][name={control.name}], [data-testid=textarea-input]").first
        field.fill(tag)
        field.press("Enter")
    else:
        studio.tick(tag)


def correction(installation: Installation, project: int) -> dict[str, Any]:
    """What `ram-backend corrections list` says about the only annotation of a project."""
    wait_until(lambda: installation.rows("corrections", "list", str(project)))
    (row,) = installation.rows("corrections", "list", str(project))
    return row
