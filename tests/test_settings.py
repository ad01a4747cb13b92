"""Settings come from the environment, once, with errors that name the variable."""

from pathlib import Path

import pytest

from ram_backend.errors import SettingsError
from ram_backend.settings import load_settings


def test_environment_and_overrides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAM_BUNDLE", "ram")
    monkeypatch.setenv("RAM_THREADS", "3")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://localhost:8080")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret-token")
    settings = load_settings(device="cpu", precision=None)
    assert (settings.bundle, settings.threads, settings.cpu_threads()) == ("ram", 3, 3)
    assert (settings.device, settings.precision) == ("cpu", "auto")
    assert (settings.label_studio_url, settings.label_studio_api_key) == ("http://localhost:8080", "secret-token")
    assert "secret-token" not in repr(settings)
    assert load_settings(bundle="tag2text").bundle == "tag2text"
    assert load_settings().webhook_headers() == {}
    monkeypatch.setenv("BASIC_AUTH_USER", "me")
    monkeypatch.setenv("BASIC_AUTH_PASS", "hidden")
    assert load_settings().webhook_headers() == {"Authorization": "Basic bWU6aGlkZGVu"}


@pytest.mark.parametrize(("name", "value"), [("RAM_DEVICE", "gpu"), ("RAM_MAX_IMAGE_PIXELS", "many")])
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"{name}='{value}'"):
        load_settings()
