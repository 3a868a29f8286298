"""A curve as SVG: what a page needs to show it without scripts or files of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 26, 28
MOST = 400
"""Points drawn; more cannot be told apart."""


def curve(name: str, points: Sequence[tuple[int, float]]) -> str:
    """`points` (step, value) under the title `name`; values that are not finite are left out."""
    shown = [(step, value) for step, value in points if math.isfinite(value)]
    shown = shown[:: -(-len(shown) // MOST)] if len(shown) > MOST else shown
    if not shown:
        return ""
    steps, values = [step for step, _ in shown], [value for _, value in shown]
    first, last, low, high = min(steps), max(steps), min(values), max(values)
    wide, tall = (last - first) or 1, (high - low) or 1.0
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(step: int, value: float) -> str:
        return f"{LEFT + across * (step - first) / wide:.1f},{TOP + down * (high - value) / tall:.1f}"

    line = " ".join(place(*point) for point in shown)
    floor = HEIGHT - BOTTOM
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{escape(name)} by step">'
        f'<text x="{LEFT}" y="16" class="title">{escape(name)}</text>'
        f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}" class="axis"/>'
        f'<text x="{LEFT - 6}" y="{TOP + 9}" text-anchor="end">{high:.4g}</text>'
        f'<text x="{LEFT - 6}" y="{floor}" text-anchor="end">{low:.4g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 10}">step {first}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{last}</text>'
        f'<polyline points="{line}" class="line"/></svg>'
    )
