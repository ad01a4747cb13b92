"""The ledger in step with Label Studio: gaps are filled, what is gone goes, and half a listing changes nothing."""

import copy
import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from feedback.saying import CONFIG, KEY, MINUTE, NOBODYS, NOW, deleted, shown, usable
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.http_server import Reply
from support.label_studio import CREATED_AT, LEGACY, FakeLabelStudio

from ram_backend.database.migrate import open_migrated
from ram_backend.errors import LabelStudioRefused, LabelStudioUnreachable
from ram_backend.feedback.corrections import corrections_of
from ram_backend.feedback.events import events_of
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.reconcile import label_studio_of, reconcile
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.request_models import WebhookRequest
from ram_backend.projects.project import Project, TrustedHost
from ram_backend.settings import load_settings

LATER = NOW + 30 * MINUTE


def webhook(studio: FakeLabelStudio, annotation: dict[str, Any], action: str = "ANNOTATION_CREATED") -> WebhookRequest:
    """As Label Studio tells of an annotation."""
    told = {**annotation, "completed_by": 1, "unique_id": "x", "prediction": {}, "result_count": 1}
    task = {"id": annotation["task"], "data": studio.tasks[annotation["task"]]["data"]}
    project = {"id": 3, "created_at": CREATED_AT, "label_config": "<View/>"}
    return WebhookRequest(action=action, annotation=told, task=task, project=project)


def tell(ledger: Ledger, studio: FakeLabelStudio, annotation: dict[str, Any]) -> None:
    ledger.record(KEY, events_of(webhook(studio, annotation), NOW))


def test_an_empty_ledger_gets_all_and_nothing_twice(ledger: Ledger, studio: FakeLabelStudio, api: ProjectApi) -> None:
    studio.page = 2
    for number in range(1, 8):
        studio.annotate(number, number, "cat")
    studio.annotate(8, 7, "cat")["result"] = "broken"
    found = reconcile(ledger, KEY, api, began=LATER)
    assert (found.listed, found.added, found.gone, found.left_out) == (7, 7, 0, 1)
    assert usable(ledger) == {number: {"cat"} for number in range(1, 8)}
    assert found.task_data[3] == {"image": "/data/3.jpg"}
    assert ledger.annotations(KEY)[0].task_data == {"image": "/data/1.jpg"}
    for number in (9, 10):
        tell(ledger, studio, studio.annotate(number, number, "cat"))
    ledger.record(NOBODYS, events_of(webhook(studio, studio.annotate(11, 11, "cat")), NOW))
    before = ledger.last_event(KEY)
    again = reconcile(ledger, KEY, api, began=LATER)
    assert (again.listed, again.added, again.gone) == (10, 0, 0), "neither its own nor what webhooks brought"
    assert ledger.last_event(KEY) == before


def test_deleted_predictions_take_nothing_back(ledger: Ledger, studio: FakeLabelStudio, api: ProjectApi) -> None:
    """Label Studio then lists the same annotations without the prediction that they were made from."""
    for number in range(1, 21):
        tell(ledger, studio, studio.annotate(number, number, "cat", parent_prediction=10 + number))
        studio.annotate(number, number, "cat", parent_prediction=None)
    assert reconcile(ledger, KEY, api, began=LATER).added == 0
    assert [each.parsed.parent_prediction for each in ledger.annotations(KEY)] == list(range(11, 31))
    studio.annotate(1, 1, "dog", minute=5, parent_prediction=None)
    assert reconcile(ledger, KEY, api, began=LATER).added == 1


def test_a_listing_knows_the_label_space_and_what_was_edited_or_skipped(
    ledger: Ledger, studio: FakeLabelStudio, api: ProjectApi
) -> None:
    studio.record["label_config"] = CONFIG.replace('<Choice value="dog"/>', "")
    studio.annotate(1, 1, "cat")
    reconcile(ledger, KEY, api, began=LATER)
    (correction,) = corrections_of(parse_label_config(CONFIG), ledger.annotations(KEY), ledger.shown(KEY))
    assert (correction.label("cat").state, correction.label("dog").state) == ("added", "unknown")
    studio.annotate(1, 1, "dog", minute=5)
    assert reconcile(ledger, KEY, api, began=LATER).added == 1
    assert usable(ledger) == {1: {"dog"}}, "an edit"
    studio.annotate(1, 1, "cat", minute=6, was_cancelled=True)
    found = reconcile(ledger, KEY, api, began=LATER)
    assert (found.added, found.gone, usable(ledger)) == (1, 0, {}), "its task is not among the annotated ones any more"


def test_what_is_gone_there_goes_here_and_comes_back(ledger: Ledger, studio: FakeLabelStudio, api: ProjectApi) -> None:
    for number in range(1, 5):
        tell(ledger, studio, studio.annotate(number, number, "cat"))
    used = ledger.last_event(KEY)
    studio.forget(2)
    task = studio.tasks.pop(3)
    for began in (NOW - MINUTE, NOW, NOW + MINUTE / 2):  # they are not committed yet
        assert reconcile(ledger, KEY, api, began=began).gone == 0
    assert reconcile(ledger, KEY, api, began=LATER).gone == 2
    assert set(usable(ledger)) == {1, 4}
    assert ledger.changes_since(KEY, used).withdrawn == 2
    studio.tasks[3] = task
    found = reconcile(ledger, KEY, api, began=LATER + MINUTE)
    assert (found.added, found.returned, found.gone) == (0, 1, 0)
    assert set(usable(ledger)) == {1, 3, 4}
    ledger.record(KEY, [deleted(3)])
    found = reconcile(ledger, KEY, api, began=LATER + 2 * MINUTE)  # a listing that was slower than the webhook
    assert (found.added, found.returned, set(usable(ledger))) == (0, 0, {1, 4})
    late = studio.annotate(9, 9, "dog")
    studio.forget(9)
    studio.before_page = lambda page: tell(ledger, studio, late)
    assert reconcile(ledger, KEY, api, began=LATER, settled=timedelta(0)).gone == 0, "it came while it was listed"
    assert set(usable(ledger)) == {1, 4, 9}


@pytest.mark.parametrize("page", [1, 2, 4])
def test_half_a_listing_changes_nothing(ledger: Ledger, studio: FakeLabelStudio, api: ProjectApi, page: int) -> None:
    studio.page = 2
    tell(ledger, studio, studio.annotate(99, 99, "cat"))
    studio.forget(99)
    for number in range(1, 5):
        studio.annotate(number, number, "cat")
    before = ledger.headers(KEY)
    listing = studio.routes["/api/tasks"]

    def breaks(asked: Any) -> Reply:
        return Reply(500) if studio.pages + 1 >= page else listing(asked)  # type: ignore[operator]

    studio.routes["/api/tasks"] = breaks
    with pytest.raises(LabelStudioUnreachable, match="HTTP 500"):
        reconcile(ledger, KEY, api, began=LATER)
    assert ledger.headers(KEY) == before
    assert ledger.shown(KEY) == {}


def test_another_project_of_that_number(ledger: Ledger, studio: FakeLabelStudio, api: ProjectApi) -> None:
    """A Label Studio that was set up anew: nothing of the old one may be taken for deleted."""
    tell(ledger, studio, studio.annotate(1, 1, "cat"))
    studio.record["created_at"] = "2027-01-01T00:00:00Z"
    studio.tasks.clear()
    with pytest.raises(LabelStudioRefused, match=r"another project.*LABEL_STUDIO_URL"):
        reconcile(ledger, KEY, api, began=LATER)
    assert usable(ledger) == {1: {"cat"}}
    assert reconcile(ledger, replace(KEY, created=0), api, began=LATER).listed == 0


def test_predictions_that_nobody_recorded(ledger: Ledger, studio: FakeLabelStudio, api: ProjectApi) -> None:
    for number in (1, 2, 3, 4):
        studio.annotate(number, number, "cat", parent_prediction=10 + number)
    studio.predict(14, 4, "cat", version=None)
    studio.predict(11, 1, "cat", "dog")
    studio.predict(5, 1, "tree", version="starter-0")
    studio.predict(12, 2, "cat")
    ledger.record_shown(KEY, [shown(2, ["cat", "tree"], ["dog"])])
    assert reconcile(ledger, KEY, api, began=LATER).shown == 3
    known = ledger.shown(KEY)
    (listed,) = known[1]
    assert (listed.model_version, listed.prediction_id, listed.source) == ("starter-1", 11, "listing")
    assert known[2] == [shown(2, ["cat", "tree"], ["dog"], prediction_id=12)]
    assert 3 not in known  # its prediction was deleted there
    assert known[4][0].model_version == "prediction 14"
    assert reconcile(ledger, KEY, api, began=LATER).shown == 0
    (first, *_) = corrections_of(parse_label_config(CONFIG), ledger.annotations(KEY), known)
    assert (first.tags("confirmed"), first.tags("removed")) == (("cat",), ("dog",))


def test_the_label_studio_of_a_project_row(studio: FakeLabelStudio) -> None:
    project = Project(replace(KEY, instance=studio.url), access_token=LEGACY)
    trusted, other = (TrustedHost(url, by_command=True) for url in (studio.url, "http://other"))
    assert label_studio_of(load_settings(), project, trusted_host=trusted).whoami()
    with pytest.raises(LabelStudioUnreachable, match="LABEL_STUDIO_URL"):
        label_studio_of(load_settings(), project, trusted_host=other).whoami()
    with pytest.raises(LabelStudioUnreachable, match=r"Nobody has named.*LABEL_STUDIO_URL"):
        label_studio_of(load_settings(), Project(NOBODYS), trusted_host=None)


# Any history


deeds = st.lists(
    st.tuples(
        st.sampled_from(["say", "say", "say", "skip", "forget", "delete task"]),
        st.integers(1, 4),
        st.sampled_from([(), ("cat",), ("dog",), ("cat", "dog")]),
    ),
    max_size=12,
)


examples = itertools.count()


@pytest.fixture(scope="module")
def any_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    opened = open_migrated(load_settings(data_dir=tmp_path_factory.mktemp("ledger")))
    yield Ledger(opened)
    opened.close()


@hypothesis_settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(deeds, st.lists(st.booleans(), min_size=30, max_size=30), st.randoms(use_true_random=False))
def test_twice_shuffled_and_with_gaps_it_is_the_same_after_a_listing(
    any_ledger: Ledger, deeds: list[tuple[str, int, tuple[str, ...]]], lost: list[bool], shuffle: random.Random
) -> None:
    """Of what was done in Label Studio one ledger hears all in order, one parts of it, twice and in any order."""
    example = next(examples)
    one, two = (replace(KEY, instance=f"http://{name}-{example}") for name in ("in-order", "other"))
    with FakeLabelStudio() as studio:
        calls: list[WebhookRequest] = []
        gone_for_good: set[int] = set()
        number = 0
        for minute, (deed, task, tags) in enumerate(deeds):
            ids = [each["id"] for each in studio.tasks.get(task, {}).get("annotations", [])]
            if task in gone_for_good:
                continue
            if deed in ("say", "skip"):
                number += 1
                said = ids[0] if ids and minute % 2 else number
                made = studio.annotate(said, task, *tags, minute=minute, was_cancelled=deed == "skip")
                calls.append(copy.deepcopy(webhook(studio, made)))
            elif deed == "forget" and ids:
                studio.forget(ids[0])
                calls.append(WebhookRequest(action="ANNOTATIONS_DELETED", annotations=[{"id": ids[0]}]))
            elif deed == "delete task" and task in studio.tasks:
                del studio.tasks[task]
                gone_for_good.add(task)  # Label Studio gives no number twice
                calls.append(WebhookRequest(action="TASKS_DELETED", tasks=[{"id": task}]))
        for call in calls:
            any_ledger.record(one, events_of(call, NOW))
        heard = [call for call, gone in zip(calls, lost, strict=False) if not gone] * 2
        shuffle.shuffle(heard)
        for call in heard:
            any_ledger.record(two, events_of(call, NOW))
        api = ProjectApi(LabelStudio(studio.url, LEGACY), 3)
        reconcile(any_ledger, two, api, began=LATER)
        assert any_ledger.fingerprint(two).hash == any_ledger.fingerprint(one).hash
        reconcile(any_ledger, one, api, began=LATER)
        assert any_ledger.fingerprint(two).hash == any_ledger.fingerprint(one).hash
