"""Boxes and masks in a real Label Studio: drawn where they are, and submitted as they were."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from e2e.browser import StudioPage
from e2e.conftest import ARTEFACTS, Installation
from PIL import Image
from support.studio_api import StudioApi, unpacked

from ram_backend.demo import photo_paths
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.predictions import ScoredChoice, brush_rle, prediction

CONFIG = """<View><Image name="image" value="$image"/>
<RectangleLabels name="boxes" toName="image" model_boxes="true">
<Label value="box" background="#0000ff"/></RectangleLabels>
<BrushLabels name="masks" toName="image" model_masks="true">
<Label value="mask" background="#ff0000"/></BrushLabels></View>"""
SIZE = (600, 400)


def test_boxes_and_masks_are_drawn_where_they_are(api: StudioApi, studio_page: StudioPage, tmp_path: Path) -> None:
    Image.new("RGB", SIZE, (160, 160, 160)).save(tmp_path / "grey.png")
    project = int(api.create_project("Regions", CONFIG)["id"])
    api.upload(project, [tmp_path / "grey.png"])
    (task,) = api.tasks(project)
    schema = parse_label_config(CONFIG)
    mask = np.zeros(SIZE[::-1], bool)
    mask[100:300, 60:180] = True
    shapes = {"boxes": {"box": [(0.9, (0.6, 0.25, 0.9, 0.75))]}, "masks": {"mask": [(0.8, brush_rle(mask))]}}
    scored = {each.name: [ScoredChoice(each.choices[0], 0.9, 0.5)] for each in schema.tag_controls}
    made = prediction(schema, scored, model_version="v", image_sizes={"image": SIZE}, boxes=shapes)
    api.call("POST", "/api/predictions/", json={"task": task["id"], **made})

    studio_page.page.goto(f"{studio_page.url}/projects/{project}/data?task={task['id']}")
    assert sorted(each.split("\n")[0] for each in studio_page.readable()["regions"]) == ["box 0.90", "mask 0.80"]
    studio_page.screenshot("regions")
    area = studio_page.page.locator("img[alt='LS'], .lsf-image img, [class*=image] img").last.bounding_box()
    with Image.open(ARTEFACTS / "regions.png") as shot:
        seen = np.asarray(shot.convert("RGB"), dtype=int)

    def colour(x: float, y: float) -> np.ndarray:
        return seen[round(area["y"] + y * area["height"]), round(area["x"] + x * area["width"])]

    red, plain, blue = colour(0.2, 0.5), colour(0.5, 0.5), colour(0.75, 0.5)
    assert plain.tolist() == [160, 160, 160]
    assert colour(0.2, 0.9).tolist() == colour(0.75, 0.9).tolist() == plain.tolist()
    assert red[0] > red[1] + 40
    assert blue[2] > blue[1] + 20

    studio_page.submit()
    (task,) = api.tasks(project)
    items = {each["type"]: each["value"] for each in task["annotations"][0]["result"]}
    alpha = unpacked(items["brushlabels"]["rle"]).reshape(*mask.shape, 4)[..., 3]
    assert np.mean((alpha > 127) == mask) > 0.99  # Label Studio packs what it has drawn
    assert [round(items["rectanglelabels"][edge]) for edge in ("x", "y", "width", "height")] == [60, 25, 30, 50]


def test_phrases_are_pushed(api: StudioApi, new_project: Callable[..., int], installation: Installation) -> None:
    phrase = "a little kitten that looks around"
    labels = f'<RectangleLabels name="boxes" toName="image"><Label value="{phrase}"/></RectangleLabels>'
    cat, other = sorted(photo_paths(), key=lambda path: "cat" not in path.name)[:2]
    config = f'<View><Image name="image" value="$image"/>{labels}</View>'
    project = new_project("Phrases", config, [cat], installation.server.url)
    for _ in range(2):
        printed = installation.run(
            "label", str(cat), str(other), "--prompt", phrase, "--project", str(project), "--push"
        )
        assert f"2 photos have predictions in project {project}." in printed
    first, second = sorted(api.tasks(project), key=lambda task: task["id"])
    for task, path, shown in ((first, cat, {phrase}), (second, other, set())):
        assert path.stem in task["data"]["image"]
        found = [each["result"] for each in task["predictions"]]
        assert len(found) == 2
        assert all({each["value"]["rectanglelabels"][0] for each in result} == shown for result in found)
