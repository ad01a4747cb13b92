"""What a prediction says, read from Label Studio's own record of it; what it sends for one."""

from datetime import datetime
from typing import Any

from support.studio_api import StudioApi


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


def predict_body(api: StudioApi, project: int) -> dict[str, Any]:
    """What Label Studio would send for all tasks of a project."""
    found = api.call("GET", f"/api/projects/{project}")
    created = api.call("GET", "/api/projects", params={"ids": project})["results"][0]["created_at"]
    seconds = int(datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp())
    return {
        "tasks": api.tasks(project),
        "project": f"{project}.{seconds}",
        "label_config": found["label_config"],
        "params": {"login": None, "password": None, "context": None},
    }
