"""Report of an evaluation: table of models by sets, and HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LEGEND = "* all tags from their text (zero-shot), + some of them, - the model can't score these tags."


def cell(model: Mapping[str, Any]) -> str:
    """The mAP of one model on one set with its mark, see `LEGEND`."""
    if "mAP" not in model:
        return "-"
    value = model["mAP"]
    unseen = (model.get("unseen") or {}).get("tags", 0)
    mark = "" if not unseen else "*" if "seen" not in model else "+"
    return ("" if value is None else f"{value:.3f}") + mark


def overview(sets: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of the table of RAM's paper: a model and its mAP on each set."""
    names = list(dict.fromkeys(model["name"] for each in sets for model in each["models"]))
    by_name = [{model["name"]: model for model in each["models"]} for each in sets]
    return [[name, *(cell(each.get(name, {})) for each in by_name)] for name in names]


def html_report(sets: Sequence[Mapping[str, Any]]) -> str:
    """A page without any outside file.

    Args:
        sets: objects that `evaluate` gave.
    """
    from jinja2 import Environment

    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(sets=sets, overview=overview(sets), cell=cell, legend=LEGEND)
