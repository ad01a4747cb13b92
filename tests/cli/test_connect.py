"""`ram-backend connect`: what it needs, and what webhooks are given."""

from pathlib import Path

import pytest
from labelstudio.test_provisioning import CONFIG, OTHER
from support import commands
from support.label_studio import LEGACY, FakeLabelStudio

from ram_backend.database.migrate import open_migrated
from ram_backend.errors import InputError, LabelStudioUnauthorized, ProjectOptionsError, RamError, SettingsError
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import load_settings


def run(*arguments: object) -> str:
    return commands.run("connect", 3, *arguments)


@pytest.fixture
def studio(studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> FakeLabelStudio:
    studio.record |= {"label_config": CONFIG, "show_collab_predictions": True, "sampling": "Sequential sampling"}
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    return studio


def test_connected_and_told(studio: FakeLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_WEBHOOK_SECRET", "hush")
    file = tmp_path / "config.xml"
    file.write_text(OTHER)
    said = run("--url", "http://backend:9090/", "--label-config", file, "--extra-params", '{"top_k": 3}')
    assert "changed  backend: http://backend:9090 connected" in said
    assert f"{studio.url}/projects/3/data" in said
    assert "hush" not in said
    assert studio.hooks[0]["headers"] == {"X-RAM-Webhook-Secret": "hush"}
    assert (studio.record["label_config"], studio.connected[0]["extra_params"]) == (OTHER, {"top_k": 3})


def test_a_project_without_anything_to_tag_gets_all_tags(studio: FakeLabelStudio) -> None:
    studio.record["label_config"] = "<View></View>"
    run()
    assert studio.record["label_config"].count("<Choice ") > 4000
    assert studio.connected[0]["url"] == "http://127.0.0.1:9090"


def test_address_and_token_are_needed(studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "c" * 40)
    with pytest.raises(LabelStudioUnauthorized, match="LABEL_STUDIO_API_KEY"):
        run()
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    with pytest.raises(SettingsError, match="Set LABEL_STUDIO_API_KEY"):
        run()
    ProjectTable(open_migrated(load_settings())).pin_host(studio.url, token=LEGACY)
    assert "connected" in run()
    monkeypatch.delenv("LABEL_STUDIO_URL")
    assert "ok       trust" in run(), "a terminal beside that of `studio` has neither"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--url", "nonsense:9090:1"], InputError),
        (["--label-config", "/nowhere.xml"], InputError),
        (["--extra-params", "[1]"], InputError),
        (["--extra-params", '{"threshold": 7}'], ProjectOptionsError),
    ],
)
def test_what_is_refused_changes_nothing(studio: FakeLabelStudio, arguments: list[str], error: type[RamError]) -> None:
    with pytest.raises(error):
        run(*arguments)
    assert studio.connected == []
    assert studio.record["label_config"] == CONFIG
