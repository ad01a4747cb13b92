"""Stand-ins for the two lines of label-studio-ml: what they do with a model class, as far as a class can tell."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

import ram_backend

PLUGIN = Path(ram_backend.__file__).parent / "server" / "plugin.py"


def load_plugin(base: type, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plugin's module, made anew on top of a host's base class."""
    package, model = ModuleType("label_studio_ml"), ModuleType("label_studio_ml.model")
    model.LabelStudioMLBase = base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "label_studio_ml", package)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", model)
    spec = importlib.util.spec_from_file_location("plugin_on_a_stand_in", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FirstBase:
    """1.0.9's: everything comes by keyword."""

    def __init__(self, label_config: str | None = None, **given: Any) -> None:
        self.label_config = label_config
        self.hostname = given.get("hostname", "")
        self.access_token = given.get("access_token", "")


class First:
    """1.0.9's manager: keeps the object that the last `/setup` made, and names versions itself."""

    def __init__(self, model_class: Any, **started_with: Any) -> None:
        self.model_class = model_class
        self.started_with = started_with
        self.model: Any = None

    def setup(self, body: dict[str, Any]) -> None:
        given = {name: body.get(name, "") for name in ("hostname", "access_token", "model_version")}
        self.model = self.model_class(label_config=body["schema"], **given, **self.started_with)

    def predict(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.model.predict(body["tasks"], **(body.get("params") or {}))
        return found


class SecondBase:
    """2.x's: a table by project keeps label config, extra params and model version."""

    table: ClassVar[dict[tuple[str, str], str]] = {}

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("label_config", label_config)
        self.setup()

    def setup(self) -> None:
        pass

    def get(self, key: str) -> str | None:
        return self.table.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        assert isinstance(value, str)
        self.table[self.project_id, key] = value

    def set_extra_params(self, extra_params: Any) -> None:
        self.set("extra_params", extra_params)

    @property
    def label_config(self) -> str | None:
        return self.get("label_config")


class Second:
    """2.x's routes: an object for every request."""

    def __init__(self, model_class: Any) -> None:
        self.model_class = model_class

    def _model(self, body: dict[str, Any], label_config: str | None) -> Any:
        return self.model_class(project_id=str(body.get("project")).split(".", 1)[0], label_config=label_config)

    def setup(self, body: dict[str, Any]) -> str:
        model = self._model(body, body["schema"])
        if body.get("extra_params"):
            model.set_extra_params(body["extra_params"])
        version: str = model.get("model_version")
        return version

    def predict(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        model = self._model(body, body.get("label_config"))
        found: list[dict[str, Any]] = model.predict(body["tasks"], context={}, login=None, password=None)
        return found
