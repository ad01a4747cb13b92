"""Thresholds in force per tag, and the layer that each comes from: settings, version or bundle."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import NamedTuple

from ram_backend.errors import RamError
from ram_backend.projects.project import Project
from ram_backend.server.model import await_shared
from ram_backend.server.services import Services

WAIT_S = 2.0
"""How long a view waits for a snapshot that is being built."""


class Threshold(NamedTuple):
    """A tag is ticked above `value`, in [0, 1], as the `source` says: "settings", a version or the bundle."""

    value: float
    source: str


async def thresholds_in_force(services: Services, project: Project) -> tuple[dict[str, Threshold], str | None]:
    """By scored text, those of what is served now; and why there are none, in one line."""
    try:
        async with asyncio.timeout(WAIT_S):
            await services.identity()
            actual = services.swap.actual(project.key)
            if isinstance(actual, Future):
                return {}, "The project's version is still being loaded."
            ref = None if actual is None else actual.ref
            config = await await_shared(services.snapshots.resolve(project, project.label_config, ref))
            snapshot = await await_shared(services.snapshots.get(config, actual))
    except TimeoutError:
        return {}, "The project's tags are still being prepared: their thresholds follow."
    except RamError as error:
        return {}, str(error)
    source = services.model.known().bundle.name if ref is None else ref.name
    found: dict[str, Threshold] = {}
    for name, control in config.controls.items():
        if (tagger := snapshot.taggers.get(name)) is None:
            continue
        for columns, given in zip(control.columns, control.thresholds, strict=True):
            for column in columns:
                value = float(tagger.thresholds[column]) if given is None else given
                found[control.texts[column]] = Threshold(value, source if given is None else "settings")
    return found, None
