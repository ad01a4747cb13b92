"""Each file in label_configs/: what the model says is on the page, is corrected there, and is read back as said."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e.browser import REST_MS, Readable, StudioPage
from e2e.conftest import Installation
from e2e.round_trips import ROUND_TRIPS, RoundTrip
from support.processes import wait_until
from support.studio_api import StudioApi

from ram_backend.cli.servers import Server
from ram_backend.demo import photo_paths
from ram_backend.labelstudio.annotations import read_items, ticked_paths
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.plan import Choice, LabelPlan, TagControl, choices_for, free_choice


@dataclass(frozen=True)
class Said:
    """What a result says: control -> the choices that it names."""

    by_control: Mapping[str, list[Choice]]

    @classmethod
    def of(cls, plan: LabelPlan, result: Iterable[object], data: Mapping[str, Any]) -> Said:
        items = read_items(result)
        found = {}
        for control in plan.tag_controls:
            paths = ticked_paths(control, items)
            known = {choice.path: choice for choice in choices_for(control, data)}
            found[control.name] = [free_choice(path[0]) if control.free else known[path] for path in paths]
        return cls(found)

    def texts(self, plan: LabelPlan) -> dict[str, set[str]]:
        """Tags by image."""
        found: dict[str, set[str]] = {to_name: set() for to_name in plan.images}
        for control in plan.tag_controls:
            found[control.to_name].update(text for choice in self.by_control[control.name] for text in choice.texts)
        return found


@pytest.fixture
def task(api: StudioApi, backend: Server) -> Callable[[str, str, RoundTrip], tuple[int, int]]:
    """Makes a project with one task, connected to the backend; returns the numbers of both."""

    def make(name: str, config: str, trip: RoundTrip) -> tuple[int, int]:
        by_name = {path.name: path for path in photo_paths()}
        photos = [by_name[each] for each in trip.photos]
        project = int(api.create_project(f"Round trip {name}", config)["id"])
        if trip.data is None:
            api.upload(project, photos)
        else:
            api.call("POST", f"/api/projects/{project}/import", json=[{"data": trip.data(photos)}])
        api.connect(project, backend.url, extra_params=dict(trip.extra_params))
        (only,) = api.tasks(project)
        return project, int(only["id"])

    return make


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_what_is_shown_and_corrected_is_read_back(
    name: str,
    task: Callable[[str, str, RoundTrip], tuple[int, int]],
    api: StudioApi,
    installation: Installation,
    label_config: Callable[[str], str],
    studio_page: StudioPage,
    artefacts: Path,
) -> None:
    trip, config = ROUND_TRIPS[name], label_config(name)
    plan = parse_label_config(config)
    controls = {control.name: control for control in plan.tag_controls}
    project, number = task(name, config, trip)

    seen = opened(studio_page, project, number)
    studio_page.screenshot(artefacts / f"label-config-{name}.png")
    (stored,) = api.tasks(project)
    (prediction,) = stored["predictions"]
    before = Said.of(plan, prediction["result"], stored["data"])
    assert before.by_control[trip.remove]
    assert seen == shown(plan, prediction["result"], before)

    take_away(studio_page, controls[trip.remove], before.by_control[trip.remove][-1])
    if trip.add is not None:
        add(studio_page, controls[trip.add[0]], trip.add[1])
    studio_page.page.wait_for_timeout(REST_MS)
    studio_page.screenshot(artefacts / f"label-config-{name}-corrected.png")
    studio_page.submit()
    (stored,) = api.tasks(project)
    (annotation,) = stored["annotations"]
    after = Said.of(plan, annotation["result"], stored["data"])
    assert before.by_control[trip.remove][-1] not in after.by_control[trip.remove]
    if trip.add is not None:
        assert trip.add[1] in [choice.label for choice in after.by_control[trip.add[0]]]

    was, now = before.texts(plan), after.texts(plan)
    expected = {
        "confirmed": sorted({tag for image in was for tag in was[image] & now[image]}),
        "added": sorted({tag for image in was for tag in now[image] - was[image]}),
        "removed": sorted({tag for image in was for tag in was[image] - now[image]}),
    }
    assert expected["removed"]
    row = correction(installation, project)
    assert {state: row[state] for state in expected} == expected
    assert row["model_version"] == prediction["model_version"]
    assert row["usable"]


def opened(studio: StudioPage, project: int, task: int) -> Readable:
    """Opens a task as a click on its row does; what a person can read when the page has come to rest."""
    studio.page.goto(f"{studio.url}/projects/{project}/data?task={task}")
    return {kind: sorted(found) for kind, found in studio.readable().items()}


def shown(plan: LabelPlan, result: list[dict[str, Any]], said: Said) -> Readable:
    """What of a prediction a person has to be able to read."""
    kinds = {control.name: control.kind for control in plan.tag_controls}

    def labels(kind: str) -> list[str]:
        return sorted(choice.label for name in kinds if kinds[name] == kind for choice in said.by_control[name])

    regions = [item for item in result if item["type"] in ("rectanglelabels", "labels")]
    return {
        "ticked": labels("choices"),
        "chosen": labels("taxonomy"),
        "lines": sorted(
            _as_read(line) for item in result if item["type"] == "textarea" for line in item["value"]["text"]
        ),
        "regions": sorted(f"{item['value'][item['type']][0]} {item['score']:.2f}" for item in regions),
    }


def _as_read(line: str) -> str:
    """A page shows several blanks as one."""
    return " ".join(line.split())


def take_away(studio: StudioPage, control: TagControl, choice: Choice) -> None:
    """As annotators do with a tag that is wrong; of a single choice nothing, for another one takes its place."""
    page = studio.page
    whole = re.compile(rf"^\s*{re.escape(choice.label)}\s*$")
    if control.regions:
        page.locator(".lsf-outliner-item__title", has_text=whole).first.click()
        page.keyboard.press("Backspace")
    elif control.free:
        line = page.locator("[data-testid=textarea-region]", has_text=whole).first
        line.hover()
        line.locator("[data-testid=htx-textbox-delete-button]").click()
    elif control.kind == "taxonomy":
        chip = page.locator(".htx-taxonomy .ant-select-selection-item", has_text=whole).first
        chip.locator(".ant-select-selection-item-remove").click()
    elif not control.single:
        studio.tick(choice.label)


def add(studio: StudioPage, control: TagControl, tag: str) -> None:
    """As annotators do with a tag that is missing."""
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
    elif control.free:
        field = page.locator(f"[data-testid=textarea-input][name={control.name}], [data-testid=textarea-input]").first
        field.fill(tag)
        field.press("Enter")
    else:
        studio.tick(tag)


def correction(installation: Installation, project: int) -> dict[str, Any]:
    """What `ram-backend corrections list` says about the only annotation of a project."""
    rows: list[dict[str, Any]] = []

    def arrived() -> bool:
        rows[:] = installation.rows("corrections", "list", "--project", str(project))
        return bool(rows)

    wait_until(arrived)
    (row,) = rows
    return row
