"""Stand-ins for label-studio-ml: what its two lines do with a model class, as far as a class can tell.

`First` is PyPI's 1.0.9: it keeps the object that the last `/setup` made, and names versions itself. `Second` is the 2.x
line: it makes an object for every request, and keeps what objects tell it in a table by project.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

import ram_backend

PLUGIN = Path(ram_backend.__file__).parent / "server" / "plugin.py"
TRAIN_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")


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
    """1.0.9's: everything comes by keyword; what it doesn't know is kept in `kwargs`."""

    def __init__(
        self, label_config: str | None = None, train_output: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.label_config = label_config
        self.train_output = train_output or {}
        self.hostname = kwargs.get("hostname", "")
        self.access_token = kwargs.get("access_token", "")

    def process_event(self, event: str, data: Any, job_id: str, additional_params: dict[str, Any]) -> Any:
        return (
            self.fit((), event=event, data=data, job_id=job_id, **additional_params) if event in TRAIN_EVENTS else None
        )

    def fit(self, tasks: Any, workdir: str | None = None, **kwargs: Any) -> Any:
        return {}


class First:
    """1.0.9's manager."""

    def __init__(self, model_class: Any, **started_with: Any) -> None:
        self.model_class = model_class
        self.started_with = started_with
        self.model: Any = None
        self.trained: list[Any] = []

    def setup(self, body: dict[str, Any]) -> str:
        said = {"hostname": body.get("hostname", ""), "access_token": body.get("access_token", "")}
        said |= {"model_version": body.get("model_version"), **self.started_with}
        learned = {"train_output": {"job_id": "1"}} if self.trained else {}
        self.model = self.model_class(label_config=body["schema"], **learned, **said)
        return "1" if self.trained else "INITIAL"

    def predict(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.model.predict(body["tasks"], **(body.get("params") or {}))
        return found

    def event(self, action: str, body: dict[str, Any]) -> None:
        """In a process of its own: with an object that has no `/setup` behind it."""
        model = self.model_class(label_config=body["project"]["label_config"], train_output=None)
        result = model.process_event(action, body, "1", {"workdir": "."})
        if isinstance(result, dict):
            self.trained.append(result)


class SecondBase:
    """2.x's: a table by project keeps label config, extra params and model version."""

    table: ClassVar[dict[tuple[str, str], str]] = {}

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("label_config", label_config)
        if not self.model_version:
            self.set("model_version", "0.0.1")
        self.setup()

    def setup(self) -> None:
        pass

    def get(self, key: str) -> str | None:
        return self.table.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        if not isinstance(value, str):
            raise ValueError("Value must be a string")
        self.table[self.project_id, key] = value

    def set_extra_params(self, extra_params: Any) -> None:
        self.set("extra_params", extra_params)

    @property
    def label_config(self) -> str | None:
        return self.get("label_config")

    @property
    def model_version(self) -> str | None:
        return self.get("model_version")


class Second:
    """2.x's routes."""

    def __init__(self, model_class: Any) -> None:
        self.model_class = model_class

    def setup(self, body: dict[str, Any]) -> str:
        model = self.model_class(project_id=body["project"].split(".", 1)[0], label_config=body["schema"])
        if body.get("extra_params"):
            model.set_extra_params(body["extra_params"])
        version: str = model.get("model_version")
        return version

    def predict(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        params = dict(body.get("params") or {})
        context = params.pop("context", {})
        model = self.model_class(
            project_id=str(body.get("project")).split(".", 1)[0], label_config=body.get("label_config")
        )
        found: list[dict[str, Any]] = model.predict(body["tasks"], context=context, **params)
        return found

    def event(self, action: str, body: dict[str, Any]) -> Any:
        model = self.model_class(str(body["project"]["id"]), label_config=body["project"]["label_config"])
        return model.fit(action, body)
