"""The admin's page: its views, its actions, and what it refuses; in Chromium without error, as wide as the screen."""

import re
from io import BytesIO
from typing import Any

import pytest
from console.conftest import CREATED, HOSTILE, Console, annotation
from e2e.browser import chromium
from PIL import Image
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import serving
from support.tiny_model import colour_model
from support.versions import ACCEPT, write

from ram_backend.console.page import mount
from ram_backend.database.migrate import open_migrated
from ram_backend.jobs.service import JobService
from ram_backend.projects.options import ProjectOptions
from ram_backend.server.app import create_app
from ram_backend.settings import Settings
from ram_backend.versions.directory import engine_folder


def test_the_list_of_projects_and_the_tags_of_one(corrected: Console) -> None:
    text = corrected.text("/")
    assert f'href="/projects/1.{CREATED}"' in text
    assert corrected.studio.url in text
    assert '<td class="number">3</td>' in text, "corrections that nothing has learned"
    row = re.search(r"<tr> <td><a[^>]*>red</a></td>(.*?)</tr>", re.sub(r"\s+", " ", corrected.text()))
    assert row is not None
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row[1])
    assert cells == ["2", "1", "1", "0", "50%", "100%", "0.60", "colours"], "acceptance and threshold of a tag"


def test_names_from_label_studio_are_escaped(corrected: Console) -> None:
    for path in ("/", "", "/report", "/connection", f"/tag?name={HOSTILE}"):
        assert "<script>alert" not in corrected.text(path)
    assert all("&lt;script&gt;alert(1)" in corrected.text(path) for path in ("", "/report"))
    assert f'href="/projects/1.{CREATED}/report"' in corrected.text()


def test_corrected_photos_of_a_tag(corrected: Console) -> None:
    text = corrected.text("/tag?name=red")
    (source,) = re.findall(r'src="(/projects/[^"]+)"', text)
    answer = corrected.get(source.replace("&amp;", "&"))
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(BytesIO(answer.content)) as image:
        assert max(image.size) <= 240
        assert image.convert("RGB").resize((1, 1)).getpixel((0, 0))[0] > 200  # type: ignore[index]


def test_a_thumbnail_is_fetched_only_where_predict_fetches(corrected: Console) -> None:
    """A photo of a task that people corrected, at an internal address."""
    event = annotation(9, "green", f"http://127.0.0.1:{corrected.client.base_url.port}/jobs")
    assert corrected.client.post("/webhook", json=event).status_code == 200
    answer = corrected.get(f"/projects/1.{CREATED}/photos/9?image=image")
    assert answer.status_code == 400
    assert "internal address" in answer.json()["error"]
    assert corrected.get(f"/projects/1.{CREATED}/photos/77?image=image").status_code == 404


def test_buttons_ask_for_jobs_and_pin(corrected: Console) -> None:
    assert "queued" in corrected.post("train").json()["message"]
    assert "queued" in corrected.post("prelabel").json()["message"]
    assert {job.kind for job in corrected.jobs.table.jobs(corrected.key)} == {"train", "prelabel"}
    assert "Pinned to base" in corrected.post("pin").json()["message"]
    assert "pinned" in corrected.text()
    assert "base is served" in corrected.post("unpin").json()["message"]


def test_what_workers_found_in_the_labels(corrected: Console) -> None:
    link, path = "Suspicious labels", f"/projects/1.{CREATED}/engine"
    assert link not in corrected.text()
    assert corrected.get(path).status_code == 404
    corrected.post("engine")
    assert corrected.jobs.table.jobs(corrected.key)[0].kind == "engine"
    folder = engine_folder(corrected.settings.versions_dir, corrected.key)
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<style>p {}</style><p>Two are wrong.</p>")
    assert link in corrected.text()
    assert "Two are wrong." in corrected.text("/engine")
    assert "style-src 'unsafe-inline'" in corrected.get(path).headers["content-security-policy"]


def test_another_version_is_served(corrected: Console) -> None:
    verdict = ACCEPT | {"reason": f"better {HOSTILE}"}
    corrected.jobs.versions.record(write(corrected.settings.versions_dir, key=corrected.key, verdict=verdict))
    assert "<script>alert" not in corrected.text()
    assert corrected.post("serve", version="v0001").json()["message"] == "v0001 is served instead of base, and pinned."
    assert corrected.jobs.versions.served(corrected.key).version == "v0001"
    assert corrected.post("serve", version="v0009").status_code == 404
    assert "base is served" in corrected.post("serve", version="base").json()["message"]


def test_settings_are_saved_refused_and_taken_back(corrected: Console) -> None:
    corrected.jobs.projects.edit_options(corrected.key, lambda old: ProjectOptions(add_cost=3))
    corrected.post(
        "options", tags="red, blue", threshold="0", per_tag="red=0.9, red, blue=0.4", top_k="3", precision=""
    )
    (project,) = corrected.jobs.projects.changes().projects
    assert project.admin_options.to_json() == {
        "tags": ["red", "blue"],
        "threshold": 0.0,
        "per_tag": {"red": 0.9, "red, blue": 0.4},
        "top_k": 3,
        "add_cost": 3,  # not in the form
    }
    wait_until(lambda: "0.90" in corrected.text())
    corrected.post("options", tags="", threshold="", per_tag="", top_k="", precision="")
    for wrong, why in (
        ({"threshold": "two"}, "is not a number"),
        ({"threshold": "2"}, "0 to 1"),
        ({"per_tag": "red"}, "is not a number"),
        ({"top_k": "1.5"}, "whole"),
    ):
        answer = corrected.post("options", **wrong)
        assert (answer.status_code, why in answer.json()["error"]) == (400, True)
    (project,) = corrected.jobs.projects.changes().projects
    assert project.admin_options.to_json() == {"add_cost": 3}
    wait_until(lambda: re.search(r">\s*0\.25\s*<", corrected.text()))  # the cost's, where a tag has no threshold


def test_jobs_are_scheduled_and_no_more(corrected: Console) -> None:
    given = {"kind": "reconcile", "cron": "30 3 * * 1-5", "zone": "Europe/Berlin"}
    assert "reconcile is scheduled: next at " in corrected.post("schedule", **given).json()["message"]
    (schedule,) = corrected.jobs.schedules.schedules(corrected.key)
    assert f"<td>30 3 * * 1-5</td><td>Europe/Berlin</td><td>{schedule.local_due}</td>" in corrected.text()
    wrong = corrected.post("schedule", **given | {"zone": "Mars"})
    assert (wrong.status_code, "not a time zone" in wrong.json()["error"]) == (400, True)
    assert "not scheduled any more" in corrected.post("schedule", kind="reconcile", cron="").json()["message"]
    assert corrected.jobs.schedules.schedules(corrected.key) == []


def test_a_post_needs_the_token_of_the_page(corrected: Console) -> None:
    assert corrected.post("pin", token="").status_code == 403
    assert corrected.post("pin", token="x" * 43).status_code == 403
    assert not corrected.jobs.versions.served(corrected.key).pinned
    assert corrected.post("dance").status_code == 400
    assert corrected.get("/projects/7.1").status_code == 404


def test_the_page_may_be_opened_by_a_link_and_not_be_read(console: Console) -> None:
    opened = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert "ram-backend connect 1" in console.get("/", **opened).text, "no project yet"
    assert console.get("/jobs", **opened).status_code == 403
    for changed in ({"Sec-Fetch-Mode": "cors"}, {"Sec-Fetch-Dest": "iframe"}):
        assert console.get("/", **{**opened, **changed}).status_code == 403
    policy = console.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


def test_without_a_login_the_page_is_for_this_machine(settings: Settings, studio: FakeLabelStudio) -> None:
    """Also where the server listens at all addresses."""
    login = {"basic_auth_user": "admin", "basic_auth_pass": "secret"}
    for changes, status in (({}, 403), (login, 200)):
        open_ = settings.model_copy(update={"host": "0.0.0.0", **changes})
        app = create_app(open_, jobs=JobService(open_, open_migrated(open_)), model=colour_model(open_))
        mount(app, check=lambda *_: [])
        with serving(app) as client:
            auth = ("admin", "secret") if changes else None
            assert client.get("/", headers={"Host": "tags.example.com"}, auth=auth).status_code == status


PATHS = ("/", f"/projects/1.{CREATED}", f"/projects/1.{CREATED}/tag?name=red", f"/projects/1.{CREATED}/report", "/docs")


@pytest.mark.e2e
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view(corrected: Console, width: int, scheme: Any) -> None:
    base = str(corrected.client.base_url).rstrip("/")
    said: list[str] = []
    asked: list[str] = []
    with chromium() as browser:
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        for path in PATHS:
            page.goto(base + path)
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert [url for url in asked if not url.startswith((base, "data:"))] == []


@pytest.mark.e2e
def test_buttons_and_form(corrected: Console) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{corrected.client.base_url}/projects/1.{CREATED}")
        page.click("text=Train now")
        page.wait_for_selector("#message:has-text('queued')")
        page.fill("input[name=threshold]", "2")
        page.click("text=Save")
        page.wait_for_selector("#message.bad:has-text('0 to 1')")
        page.fill("input[name=threshold]", "0.3")
        page.click("text=Save")
        page.wait_for_selector("#message:has-text('Saved')")
        page.select_option("select[name=kind]", "refresh")
        page.fill("input[name=cron]", "0 4 * * *")
        page.click("button:has-text('Schedule')")
        page.wait_for_selector("#message:has-text('next at')")
    assert [each.kind for each in corrected.jobs.schedules.schedules(corrected.key)] == ["refresh"]
    assert [job.kind for job in corrected.jobs.table.jobs(corrected.key)] == ["train"]
    (project,) = corrected.jobs.projects.changes().projects
    assert project.admin_options.threshold == 0.3
