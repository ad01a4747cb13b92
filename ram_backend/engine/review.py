"""Review queue in Label Studio: a prediction with the proposed tags, and an order.

Each task with findings gets `ram_review_order` (1: the surest finding) and
`ram_review` (what is asked) in its data, which the Data Manager sorts and
filters by, and a prediction of the version `REVIEW` whose score is 1 minus the
probability of its surest finding. An annotation that starts from it is a
correction whose origin is that version. A question is never put to a task
again, whether it was accepted or not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from ram_backend.engine.findings import Finding
from ram_backend.labelstudio.predictions import ScoredChoice, prediction
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.schema import LabelSchema, choices_for

REVIEW = "engine-review"
ORDER, ASKED = "ram_review_order", "ram_review"


def push_review(
    api: ProjectApi,
    schema: LabelSchema,
    findings: Sequence[Finding],
    tags_of: Mapping[int, set[str]],
    progress: Callable[[str, int, int], None],
) -> int:
    """Puts the findings of tasks into the review queue.

    Args:
        api: of the project.
        schema: of its label config.
        findings: `number` is the task's; the surest first.
        tags_of: of each task the tags that are on.
        progress: called with stage, step and steps.

    Returns:
        The number of tasks with a question that is new.
    """
    by_task: dict[int, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_task[finding.number].append(finding)
    order = 0
    tasks = {task.id: task for task in api.tasks(list(by_task))}
    for at, (number, questions) in enumerate(by_task.items()):
        progress("push", at, len(by_task))
        if number not in tasks:
            continue
        data = tasks[number].data
        previous = [each for each in str(data.get(ASKED, "")).split("; ") if each]
        new = [each for each in questions if f"{each.kind}: {each.tag}" not in previous]
        if not new:
            continue
        order += 1
        changed = {each.tag: each.kind == "missing" for each in new}
        proposed = {tag for tag in tags_of[number] if changed.get(tag, True)} | {
            tag for tag, on in changed.items() if on
        }
        scored = {
            control.name: [
                ScoredChoice(choice, 1.0 if proposed & set(choice.texts) else 0.0, 0.5)
                for choice in choices_for(control, data)
            ]
            for control in schema.tag_controls
        }
        review = prediction(schema, scored, model_version=REVIEW)
        api.add_prediction(number, {**review, "score": round(1 - new[0].probability, 6)})
        listed = "; ".join([*previous, *(f"{each.kind}: {each.tag}" for each in new)])
        api.change_data(number, {**data, ORDER: order, ASKED: listed})
    return order
