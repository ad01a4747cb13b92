"""A `/predict` that can't be done in time becomes a job."""

from unittest.mock import Mock

import pytest
from support.processes import wait_until
from support.server import CONFIG, ON_BOTH_DATABASES, PROJECT, House, Houses, predict_body
from support.tiny_model import ColourNetwork, picture

from ram_backend.errors import DatabaseUnavailable, ProjectNotFound

pytestmark = ON_BOTH_DATABASES


@pytest.fixture
def late(house: Houses) -> House:
    return house(ColourNetwork(seconds=0.1), batch_size=1, predict_seconds=0.3)


def ask(late: House, tasks: int, project: str = PROJECT) -> tuple[int, str]:
    images = [late.studio.upload(f"{place}.png", picture((place, 0, 0))) for place in range(tasks)]
    answer = late.client.post("/predict", json=predict_body(CONFIG, images, project))
    return answer.status_code, str(answer.json().get("error"))


def test_many_tasks_become_a_job(late: House) -> None:
    status, said = ask(late, 12)
    assert (status, said.partition(",")[0]) == (503, "12 tasks were not done in time: job j2 continues them")
    assert late.jobs.late == [(late.key, list(range(1, 13)), "12 tasks were not done within a request")]
    network = late.services.model.network.result()
    network.seconds = 0
    wait_until(lambda: ask(late, 12)[0] == 200)
    assert sum(network.batches) < 24, "what was done is remembered"
    late.jobs.late.clear()
    assert (ask(late, 12)[0], late.jobs.late) == (200, [])


@pytest.mark.parametrize(
    ("tasks", "project", "said"), [(1, PROJECT, "not done within"), (12, "", "Set LABEL_STUDIO_URL")]
)
def test_one_task_and_tasks_of_no_project_do_not(late: House, tasks: int, project: str, said: str) -> None:
    late.services.model.network.result().seconds = 0.5
    status, error = ask(late, tasks, project)
    assert (status, said in error, late.jobs.late) == (503, True, [])


def test_a_database_that_is_away_costs_the_job_and_not_the_answer(late: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, named in ((DatabaseUnavailable("It is away."), False), (ProjectNotFound("It is not known yet."), True)):
        monkeypatch.setattr(late.jobs, "request_prelabelling", Mock(side_effect=error))
        status, said = ask(late, 12)
        assert (status, "fewer tasks at a time" in said, str(error) in said) == (503, True, named)
