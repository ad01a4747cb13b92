"""Plots as inline SVG: bars per day, and before and after each version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from markupsafe import Markup

DAYS = 30
_WIDTH, _HEIGHT = 600, 90
_VERSION_ROW = 26


def bars_per_day(values: Mapping[date, float], until: date, what: str = "Corrections") -> Markup:
    """A bar for each of the last `DAYS` days, up to `until`; `what` they show."""
    days = [until - timedelta(days=back) for back in reversed(range(DAYS))]
    highest = max([values.get(day, 0) for day in days] + [1])
    step = _WIDTH / DAYS
    bars = Markup("").join(
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {:.4g}</title></rect>').format(
            place * step, _HEIGHT - (height := _HEIGHT * values.get(day, 0) / highest), step - 2, height, day,
            values.get(day, 0),
        )
        for place, day in enumerate(days)
    )  # fmt: skip
    label = f"{what} by day from {days[0]} to {days[-1]}, at most {highest:.4g}"
    return Markup('<svg class="bars" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, label, bars
    )


def before_and_after(rows: Sequence[tuple[str, float, float, bool]]) -> Markup:
    """A line per version from the figure before to the figure after it.

    Args:
        rows: name, before, after, and whether the gate accepted it.
    """
    if not rows:
        return Markup("")
    values = [value for _, before, after, _ in rows for value in (before, after)]
    low, span = min(values), (max(values) - min(values)) or 1.0

    def x(value: float) -> float:
        return 80 + (_WIDTH - 160) * (value - low) / span

    drawn = Markup("").join(
        Markup(
            '<g class="{}"><text x="0" y="{y}">{}</text><line x1="{:.1f}" x2="{:.1f}" y1="{mid}" y2="{mid}"/>'
            '<circle class="before" cx="{:.1f}" cy="{mid}" r="4"/><circle cx="{:.1f}" cy="{mid}" r="5"/>'
            '<text x="{right}" y="{y}">{:.3f}</text></g>'
        ).format(
            "accepted" if accepted else "refused", name, x(before), x(after), x(before), x(after), after,
            y=place * _VERSION_ROW + 18, mid=place * _VERSION_ROW + 13, right=_WIDTH - 50,
        )
        for place, (name, before, after, accepted) in enumerate(rows)
    )  # fmt: skip
    return Markup('<svg class="versions" viewBox="0 0 {} {}" role="img" aria-label="Before and after">{}</svg>').format(
        _WIDTH, len(rows) * _VERSION_ROW + 6, drawn
    )
