"""What a prediction says, read from Label Studio's own record of it."""

from __future__ import annotations

from typing import Any


def items(prediction: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Control name -> its only item."""
    found = {item["from_name"]: item for item in prediction["result"]}
    assert len(found) == len(prediction["result"]), "Label Studio keeps only the last item of a control"
    return found


def tags(prediction: dict[str, Any]) -> list[str]:
    """Ticked tags, best first; of a path its last part."""
    value = items(prediction).get("tags", {"value": {}})["value"]
    return list(value.get("choices") or [path[-1] for path in value.get("taxonomy", [])])


def confidences(prediction: dict[str, Any]) -> dict[str, int]:
    """Tag -> percentage."""
    lines = items(prediction).get("confidence", {"value": {"text": []}})["value"]["text"]
    split = [line.rsplit(maxsplit=1) for line in lines]
    return {name: int(number.removesuffix("%")) for name, number in split}


def photo(task: dict[str, Any]) -> str:
    """Name of the uploaded file."""
    return str(task["data"]["image"]).rpartition("/")[2].partition("-")[2]
