"""Rows of the protocol's sections 4 and 5: shapes that Label Studio stores and shows, in strict mode too."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from contract.recorded import body

from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.predictions import ScoredChoice, empty_prediction, prediction
from ram_backend.labelstudio.schema import choices_for, free_choice

READY = Path(__file__).resolve().parents[2] / "label_configs"
IMAGE = '<Image name="image" value="$image"/>'
AREA = '<TextArea name="confidence" toName="image" editable="false" maxSubmissions="0" rows="1"/>'
RECTANGLES = (
    '<RectangleLabels name="conf" toName="image" opacity="0" fillOpacity="0" strokeWidth="0">'
    '<Label value="cat"/><Label value="dog" alias="d"/></RectangleLabels>'
)
TAGS = '<Choices name="tags" toName="image" choice="multiple">'
PLAIN = '<Choice value="cat"/><Choice value="dog"/><Choice value="tree"/>'
CONFIGS = {
    "multiple": f'<View>{IMAGE}<Choices name="tags" toName="image" choice="multiple">{PLAIN}</Choices></View>',
    "single": f'<View>{IMAGE}<Choices name="tags" toName="image" choice="single">{PLAIN}</Choices></View>',
    "rectangles": f"<View>{IMAGE}{TAGS}{PLAIN}</Choices>{RECTANGLES}</View>",
    "aliases": f'<View>{IMAGE}<Choices name="tags" toName="image" choice="multiple"><Choice value="Cat" alias="c"/>'
    f'<Choice value="Dog" alias=""/><Choice value="Car" predicted_values="jeep,cab"/></Choices>{AREA}</View>',
    "nested in layout": f"<View>{IMAGE}{TAGS}<View>{PLAIN}</View></Choices></View>",
    "taxonomy": f'<View>{IMAGE}<Taxonomy name="tags" toName="image"><Choice value="animal" alias="A">'
    f'<Choice value="cat"/></Choice><Choice value="sky"/></Taxonomy>{AREA}</View>',
    "regions": f'<View>{IMAGE}<RectangleLabels name="tags" toName="image"><Label value="cat"/>'
    f'<Label value="Dog" alias="d"/></RectangleLabels>{AREA}</View>',
    "dynamic labels": f'<View>{IMAGE}<RectangleLabels name="tags" toName="image" value="$options"/></View>',
    "free tags": f'<View>{IMAGE}<TextArea name="tags" toName="image" editable="true"/>{AREA}</View>',
    "recorded": body("webhook-annotation-created-choices-textarea-from-prediction")["project"]["label_config"],
    "recorded rectangles": body("webhook-annotation-created-choices-rectanglelabels-from-prediction")["project"][
        "label_config"
    ],
    "recorded 4585 tags": body("webhook-annotation-created-taxonomy")["project"]["label_config"],
    **{path.name: path.read_text(encoding="utf-8") for path in sorted(READY.glob("*.xml"))},
}
LEVELS = {"all": 0.9, "none": 0.1, "every other": None}
FREE = ("sofa", "red chair", "lamp")
TASK = {"image": "x.jpg", "options": ["cat", {"value": "dog", "alias": "D"}]}

STUDIO_PYTHON = Path(os.environ.get("RAM_STUDIO_VENV", Path(__file__).parents[2] / ".venv-studio"), "bin", "python")


def answer(config: str, level: float | None) -> dict[str, Any]:
    schema = parse_label_config(config)
    scored = {
        control.name: [
            ScoredChoice(choice, level if level is not None else (0.6 + number % 7 / 20 if number % 2 else 0.3), 0.5)
            for number, choice in enumerate(map(free_choice, FREE) if control.free_text else choices_for(control, TASK))
        ]
        for control in schema.tag_controls
    }
    sizes = dict.fromkeys(schema.images, (640, 480))
    return prediction(schema, scored, model_version="ram-0007", image_sizes=sizes)


REGIONS = {"rectanglelabels", "labels", "rectangle"}
PLACE = {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0}


def check(config: str, given: dict[str, Any]) -> None:
    """Refuses what strict mode does and what the page would not show: written once more, independent of our code."""
    controls = {node.get("name"): node for node in ElementTree.fromstring(config).iter() if node.get("toName")}
    assert set(given) == {"model_version", "score", "result"}
    assert isinstance(given["score"], float)
    assert 0 <= given["score"] <= 1
    ids = [item["id"] for item in given["result"] if item["type"] != "rectangle"]
    pairs = [item["id"] for item in given["result"] if item["type"] == "rectangle"]
    alone = [item["from_name"] for item in given["result"] if item["type"] not in REGIONS]
    for each in (ids, pairs, alone):
        assert len(set(each)) == len(each), "twice"
    assert set(pairs) <= set(ids), "rectangles have labels"
    for item in given["result"]:
        control, value = controls[item["from_name"]], item["value"]
        assert item["to_name"] in control.get("toName", "").split(",")
        assert item["type"] == control.tag.lower()
        assert item["type"] not in REGIONS or {key: value[key] for key in PLACE} == PLACE
        if item["type"] == "rectangle":
            continue
        said = value["text" if item["type"] == "textarea" else item["type"]]
        assert len({str(each) for each in said}) == len(said) > 0
        assert item["type"] != "choices" or control.get("choice") == "multiple" or len(said) == 1
        names = {node.get("alias") or node.get("value") for node in control.iter() if node.tag in {"Choice", "Label"}}
        steps = [step for path in said for step in path] if item["type"] == "taxonomy" else said
        assert all(isinstance(step, str) and (step in names or not names) for step in steps)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_answer_is_valid_in_strict_mode(config, level):
    given = answer(config, level)
    check(config, given)
    always = any(control.required and control.single for control in parse_label_config(config).tag_controls)
    assert bool(given["result"]) == (level != 0.1 or always)
    assert json.loads(json.dumps(given, allow_nan=False)) == given


def test_an_empty_answer_is_valid_and_comes_last():
    check(CONFIGS["multiple"], empty_prediction("v"))
    assert empty_prediction("v")["score"] == 1.0


@pytest.mark.parametrize("kind", ["textarea", "rectanglelabels"])
def test_the_answers_have_the_shape_of_what_came_back_from_the_page(kind):
    request = body(f"webhook-annotation-created-choices-{kind}-from-prediction")
    seen = {item["type"]: item for item in request["annotation"]["result"]}
    given = answer(request["project"]["label_config"], 0.9)["result"]
    assert {item["type"] for item in given} == {"choices", kind}
    for item in given:
        back = seen[item["type"]]
        assert set(back) - {"origin", "parent_id"} <= set(item)
        assert set(item["value"]) == set(back["value"])
        assert (item["from_name"], item["to_name"]) == (back["from_name"], back["to_name"])


CHECK = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
found = []
for config, prediction in json.load(sys.stdin):
    interface = LabelInterface(config)
    interface.validate()
    found.append(interface.validate_prediction(prediction, return_errors=True))
json.dump(found, sys.stdout)
"""


@pytest.mark.service
def test_label_studio_itself_agrees():
    """A Python that has label-studio-sdk: `STRICT_MODE_PYTHON`, else that of `make label-studio`."""
    python = os.environ.get("STRICT_MODE_PYTHON") or (str(STUDIO_PYTHON) if STUDIO_PYTHON.exists() else None)
    if not python:
        pytest.skip("there is no Python with label-studio-sdk: make label-studio, or name one in STRICT_MODE_PYTHON")
    names = [(name, level) for name in CONFIGS for level in LEVELS]
    cases = [(CONFIGS[name], answer(CONFIGS[name], LEVELS[level])) for name, level in names]
    run = subprocess.run([python, "-c", CHECK], input=json.dumps(cases), capture_output=True, text=True, check=True)
    assert dict(zip(names, json.loads(run.stdout), strict=True)) == {key: [] for key in names}
