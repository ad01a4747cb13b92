"""The recipes that requests have asked for: kept, so that asking again costs nothing, and known by project."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import TypeVar

from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import ProjectOptions
from ram_backend.projects.project import Project
from ram_backend.server.live import LiveVersion
from ram_backend.server.model import ModelIdentity
from ram_backend.server.recipes import Recipe, make_recipe

KEPT_RECIPES = 128
KEPT_CHARACTERS = 20_000_000
"""Of the label configs of the recipes that are kept."""

KEPT_PROJECTS = 1000
KEPT_CONFIGS = 4
"""Label configs remembered per project: its own, and those that other clients ask with."""

_Key = tuple[str, ProjectOptions, ProjectOptions, tuple[ProjectKey, str] | None]
K = TypeVar("K")
V = TypeVar("V")
_log = logging.getLogger(__name__)


class RecipeBook:
    """Recipes by label config, options and version, the latest ones. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recipes: OrderedDict[_Key, Recipe] = OrderedDict()
        self._configs: OrderedDict[ProjectKey, OrderedDict[str, None]] = OrderedDict()
        self._versions: OrderedDict[ProjectKey, str] = OrderedDict()

    def find(self, project: Project, label_config: str, version: LiveVersion | None) -> Recipe | None:
        """The recipe, where it was made before."""
        key = _key(project, label_config, version)
        with self._lock:
            recipe = self._recipes.get(key)
            if recipe is None or recipe.version is not version:
                return None
            self._remember(project.key, label_config)
            self._recipes.move_to_end(key)
            return recipe

    def make(self, identity: ModelIdentity, project: Project, label_config: str, version: LiveVersion | None) -> Recipe:
        """The recipe, made where it was not made before.

        Raises:
            InputError: the label config can't be used.
        """
        there = self.find(project, label_config, version)
        if there is not None:
            return there
        plan = parse_label_config(label_config)
        recipe = make_recipe(identity, plan, project, version)
        for note in recipe.notes:
            _log.info("project %s: %s", project.key, note)
        with self._lock:
            self._remember(project.key, label_config)
            if version is None or not version.retired:
                _put(self._recipes, _key(project, label_config, version), recipe, KEPT_RECIPES)
                while len(self._recipes) > 1 and sum(len(key[0]) for key in self._recipes) > KEPT_CHARACTERS:
                    self._recipes.popitem(last=False)
        return recipe

    def label_configs(self, project: Project) -> list[str]:
        """The label configs that a project was asked for with, latest first, and its own."""
        with self._lock:
            used = list(reversed(self._configs.get(project.key, ())))
        return list(dict.fromkeys([*used, project.label_config])) if project.label_config else used

    def forget(self, version: LiveVersion) -> None:
        """Lets go of the recipes of a version."""
        with self._lock:
            for key in [key for key, recipe in self._recipes.items() if recipe.version is version]:
                del self._recipes[key]

    def note(self, key: ProjectKey, recipe: Recipe) -> int | None:
        """Notes what a project is served as; returns the number of projects where that is news."""
        with self._lock:
            if self._versions.get(key) == recipe.model_version:
                return None
            _put(self._versions, key, recipe.model_version, KEPT_PROJECTS)
            count = len(self._versions)
        _log.info("project %s is served as %s", key, recipe.model_version)
        return count

    def has(self, key: ProjectKey) -> bool:
        """Whether anybody has asked what a project is served as."""
        with self._lock:
            return key in self._versions

    def versions(self, project: str | None = None) -> list[str]:
        """The current model version of a project ("1.1795452148", or its number), or of all that were asked about."""
        asked = None if project is None else project.split(".")
        with self._lock:
            there = list(self._versions.items())
        found = [
            version for key, version in there if asked is None or [str(key.id), str(key.created)][: len(asked)] == asked
        ]
        return sorted(set(found))

    def _remember(self, key: ProjectKey, label_config: str) -> None:
        used = self._configs.get(key)
        if used is None:
            used = OrderedDict()
            _put(self._configs, key, used, KEPT_PROJECTS)
        _put(used, label_config, None, KEPT_CONFIGS)


def _key(project: Project, label_config: str, version: LiveVersion | None) -> _Key:
    named = None if version is None else (version.key, version.digest)
    return (label_config, project.extra_params, project.set_options, named)


def _put(kept: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > limit:
        kept.popitem(last=False)
