"""Label Studio's API for pre-labelling: which tasks lack a prediction, and how their backend is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ram_backend.labelstudio.annotations import number_of
from ram_backend.labelstudio.project_api import PAGE, ListedTask, ProjectApi

FAILED_SCORE = 1.0
"""Score of the empty prediction that a task gets whose image can't be had (protocol section 4)."""


@dataclass(frozen=True)
class TaskPredictions:
    """What a task has of one version.

    Attributes:
        task: its number.
        kept: number of the prediction that counts; None: it has none.
        surplus: numbers of further ones of the same version.
        failed: whether the one that counts is empty because the image could not be had.
    """

    task: int
    kept: int | None
    surplus: tuple[int, ...] = ()
    failed: bool = False

    @classmethod
    def of(cls, task: ListedTask, version: str) -> TaskPredictions:
        """Reads them; one that an annotation was made from counts before earlier ones."""
        own = {number: each for each in task.predictions if (number := _number(each, version)) is not None}
        parents = {each.get("parent_prediction") for each in task.annotations}
        order = sorted(own, key=lambda number: (number not in parents, number))
        if not order:
            return cls(task.id, None)
        return cls(task.id, order[0], tuple(order[1:]), _is_failed(own[order[0]]))


class PrelabelApi(ProjectApi):
    """`ProjectApi`, and what only pre-labelling asks. Every method raises what that raises."""

    def without(self, version: str, *, unlabelled: bool = False, among: Sequence[int] | None = None) -> Iterator[int]:
        """Numbers of tasks without a prediction of that version.

        Args:
            version: a model version.
            unlabelled: only those without annotation, rising.
            among: only of these, in their order.
        """
        lacking = _filter("predictions_model_versions", "not_contains", "List", [version])
        if among is None:
            unsaid = [_filter("total_annotations", "equal", "Number", 0)] if unlabelled else []
            for task in self._after(lacking, *unsaid, fields="task_only"):
                yield task.id
            return
        for start in range(0, len(among), PAGE):
            chosen = {"all": False, "included": list(among[start : start + PAGE])}
            query = {
                "selectedItems": chosen,
                "filters": {"conjunction": "and", "items": [lacking]},
                "ordering": ["tasks:id"],
            }
            for task in self._page(query, "task_only"):
                yield task.id

    def count_unlabelled_without(self, version: str) -> int:
        """Number of tasks without annotation that have no prediction of that version."""
        lacking = _filter("predictions_model_versions", "not_contains", "List", [version])
        items = [lacking, _filter("total_annotations", "equal", "Number", 0)]
        return self._total({"filters": {"conjunction": "and", "items": items}})

    def has_any(self, version: str) -> bool:
        """Whether any task of the project has a prediction of that version."""
        there = _filter("predictions_model_versions", "contains", "List", [version])
        return next(self._after(there, fields="task_only"), None) is not None

    def failed(self, version: str) -> Iterator[TaskPredictions]:
        """What tasks have whose prediction of that version is empty because their image could not be had."""
        for task in self._after(_filter("predictions_results", "equal", "String", "[]")):
            found = TaskPredictions.of(task, version)
            if found.failed:
                yield found

    def of_version(self, tasks: Sequence[int], version: str) -> list[TaskPredictions]:
        """What those of these tasks that are there have of a version."""
        return [TaskPredictions.of(task, version) for task in self.tasks(tasks)]

    def delete_prediction(self, number: int) -> None:
        """Deletes one prediction."""
        self.label_studio.send_json("DELETE", f"/api/predictions/{number}/")


def _filter(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _number(prediction: Mapping[str, Any], version: str) -> int | None:
    return number_of(prediction.get("id")) if prediction.get("model_version") == version else None


def _is_failed(prediction: Mapping[str, Any]) -> bool:
    return prediction.get("result") == [] and prediction.get("score") == FAILED_SCORE
