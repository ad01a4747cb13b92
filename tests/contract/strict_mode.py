"""What Label Studio's strict mode refuses, written down once more, independent of the code under test."""

from typing import Any
from xml.etree import ElementTree

_REGIONS = {"rectanglelabels", "labels", "rectangle"}
_PLACE = {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0}


def problems(config: str, prediction: dict[str, Any]) -> list[str]:
    """All that strict mode would say about a prediction, and what the page would not show; empty: none."""
    root = ElementTree.fromstring(config)
    controls = {node.get("name"): node for node in root.iter() if node.get("name") and node.get("toName")}
    objects = {node.get("name") for node in root.iter() if node.get("name") and not node.get("toName")}
    found = []
    if set(prediction) != {"model_version", "score", "result"}:
        found.append(f"keys {sorted(prediction)}")
    if not isinstance(prediction["model_version"], str) or not prediction["model_version"]:
        found.append("no model version")
    if not isinstance(prediction["score"], float) or not 0 <= prediction["score"] <= 1:
        found.append(f"score {prediction['score']!r}")
    ids = [item.get("id") for item in prediction["result"] if item["type"] != "rectangle"]
    pairs = [item.get("id") for item in prediction["result"] if item["type"] == "rectangle"]
    if len(set(pairs)) != len(pairs) or not set(pairs) <= set(ids):
        found.append(f"rectangles {pairs} without labels")
    if len(set(ids)) != len(ids) or not all(ids):
        found.append(f"ids {ids}")
    alone = [item["from_name"] for item in prediction["result"] if item["type"] not in _REGIONS]
    if len(set(alone)) != len(alone):
        found.append(f"several items of one control: {alone}")
    for item in prediction["result"]:
        found.extend(_of_item(item, controls, objects))
    return found


def _of_item(item: dict[str, Any], controls: dict[str | None, Any], objects: set[str | None]) -> list[str]:
    control = controls.get(item["from_name"])
    if control is None:
        return [f"from_name {item['from_name']!r}"]
    found = []
    if item["to_name"] not in objects or item["to_name"] not in control.get("toName").split(","):
        found.append(f"to_name {item['to_name']!r}")
    if item["type"] != control.tag.lower():
        found.append(f"type {item['type']!r}")
    if item["type"] in _REGIONS and {key: item["value"].get(key) for key in _PLACE} != _PLACE:
        found.append(f"place {item['value']!r}")
    if item["type"] == "rectangle":
        return found
    said = item["value"].get("text" if item["type"] == "textarea" else item["type"])
    if not isinstance(said, list) or not said:
        return [*found, f"value {item['value']!r}"]
    entries = [node for node in control.iter() if node.tag in {"Choice", "Label"}]
    names = {node.get("alias") or node.get("value") for node in entries}
    flat = [step for path in said for step in path] if item["type"] == "taxonomy" else said
    if not all(isinstance(each, str) for each in flat):
        found.append(f"no texts: {said!r}")
    elif names and not set(flat) <= names:
        found.append(f"unknown tags {sorted(set(flat) - names)}")
    if len({str(each) for each in said}) != len(said):
        found.append(f"twice: {said!r}")
    if item["type"] == "choices" and control.get("choice") != "multiple" and len(said) > 1:
        found.append("several values of a single choice")
    return found
