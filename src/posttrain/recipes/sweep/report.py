"""A sweep as a page that opens offline: target gain against drift, every point labelled, and the figures with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from posttrain.config.files import write_text

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 30, 50
DRIFT_AXIS = "drift: KL to the start model, nats an answer (square-root scale)"
GAINS = {"margin": "margin on held-out pairs, nats", "accuracy": "accuracy on held-out pairs, %"}
COLOURS = 6
"""How many betas have a colour of their own on the page."""


def write_page(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write the page of a sweep's report (``sweep.json``)."""
    environment = Environment(
        loader=PackageLoader("posttrain.recipes.sweep", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plots = [plot(report, gain) for gain in GAINS]
    page = environment.get_template("page.html.jinja").render(report=report, rows=_by_gain(report), plots=plots, figure=figure)
    write_text(path, page)


def sweep_text(report: Mapping[str, Any]) -> str:
    """The figures as a table for the terminal; * marks the points that no other beats in both margin and drift."""
    rows = [("", "beta", "learning rate", "margin, nats", "accuracy, %", "drift, nats", "better answers, nats")]
    for point in _by_gain(report):
        measured, mark = point["measured"], "*" if point["name"] in report["frontier"] else ""
        gains = figure(measured["margin"]), figure(measured["accuracy"], 100)
        drifts = figure(measured["kl"]), figure(measured["chosen_change"])
        rows.append((mark, f"{point['beta']:g}", f"{point['learning_rate']:g}", *gains, *drifts))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def figure(interval: Mapping[str, Any], scale: float = 1.0) -> str:
    """``value [low, high]`` to three digits; a bound the pairs cannot give is a question mark."""
    low, high = ("?" if interval[side] is None else f"{scale * interval[side]:.3g}" for side in ("low", "high"))
    return f"{scale * interval['value']:.3g} [{low}, {high}]"


def plot(report: Mapping[str, Any], gain: str) -> Markup:
    """Drift to the right (nats an answer, square-root scale), one figure of ``GAINS`` upwards; lines are 95 % intervals within the frame.

    KL grows with the square of a small step, so equal steps away from the start model are equal distances here (as in Gao et al. 2023,
    arXiv:2210.10760, section 3). The dashed line is what the start model has.
    """
    points = sorted(report["points"], key=lambda point: point["measured"]["kl"]["value"])
    betas = sorted({point["beta"] for point in points})
    frame = _frame([point["measured"] for point in points], gain)
    parts = [_axes(frame, GAINS[gain])]
    taken: list[tuple[float, float]] = []
    for point in points:
        drift, found = point["measured"]["kl"], point["measured"][gain]
        cx, cy, label = frame.x(drift["value"]), frame.y(found["value"]), f"β {point['beta']:g} · {point['learning_rate']:g}"
        x1, x2 = frame.x(drift["low"] or 0.0), frame.x(math.inf if drift["high"] is None else drift["high"])
        y1, y2 = (frame.y(end if found[side] is None else found[side]) for side, end in (("low", -math.inf), ("high", math.inf)))
        height, away = cy - 8, -13 if cy > HEIGHT / 2 else 13
        while any(abs(cx - other_x) < 115 and abs(height - other_y) < 13 for other_x, other_y in taken):
            height += away
        taken.append((cx, height))
        anchor, shift = ("end", -8) if cx > WIDTH - 130 else ("start", 8)
        kind = f"b{betas.index(point['beta']) % COLOURS}" + (" front" if point["name"] in report["frontier"] else "")
        parts.append(
            f'<g class="{kind}"><line x1="{x1:.1f}" y1="{cy:.1f}" x2="{x2:.1f}" y2="{cy:.1f}"/>'
            f'<line x1="{cx:.1f}" y1="{y1:.1f}" x2="{cx:.1f}" y2="{y2:.1f}"/><circle cx="{cx:.1f}" cy="{cy:.1f}" r="5"/>'
            f'<text x="{cx + shift:.1f}" y="{height:.1f}" text-anchor="{anchor}">{escape(label)}</text></g>'
        )
    name = f"{GAINS[gain]}, against drift, a point each setting"
    return Markup(f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">{"".join(parts)}</svg>')


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the plot shows: drift from 0 to ``reach``, gain from ``floor`` to ``top``; ``start`` is the start model's gain."""

    reach: float
    floor: float
    top: float
    start: float
    scale: float

    def x(self, drift: float) -> float:
        return LEFT + math.sqrt(min(max(drift, 0.0) / self.reach, 1.0)) * (WIDTH - LEFT - RIGHT)

    def y(self, gain: float) -> float:
        share = (min(max(gain, self.floor), self.top) - self.floor) / (self.top - self.floor)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _frame(measured: Sequence[Mapping[str, Any]], gain: str) -> _Frame:
    reach = 1.15 * (max(entry["kl"]["value"] for entry in measured) or 1.0)
    lows = [entry[gain]["low"] for entry in measured if entry[gain]["low"] is not None]
    if gain == "accuracy":
        return _Frame(reach, min(0.45, *lows, 0.45), 1.0, 0.5, 100.0)
    values = [entry[gain]["value"] for entry in measured]
    room = 0.3 * (max([0.0, *values]) - min([0.0, *values])) or 1.0
    return _Frame(reach, min([0.0, *values]) - (room if min(values) < 0 else 0.0), max([0.0, *values]) + room, 0.0, 1.0)


def _axes(frame: _Frame, name: str) -> str:
    base, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    ticks = [(frame.reach * step**2 / 16, frame.floor + (frame.top - frame.floor) * step / 4) for step in range(5)]
    return "".join(
        [
            f'<path class="axis" d="M{LEFT} {TOP}V{base}H{end}"/>',
            f'<line class="chance" x1="{LEFT}" y1="{frame.y(frame.start):.1f}" x2="{end}" y2="{frame.y(frame.start):.1f}"/>',
            *(f'<text class="tick" x="{frame.x(x):.1f}" y="{base + 18}" text-anchor="middle">{x:.2g}</text>' for x, _ in ticks),
            *(
                f'<text class="tick" x="{LEFT - 8}" y="{frame.y(y) + 4:.1f}" text-anchor="end">{frame.scale * y:.3g}</text>'
                for _, y in ticks
            ),
            f'<text class="name" x="{end}" y="{HEIGHT - 8}" text-anchor="end">{DRIFT_AXIS}</text>',
            f'<text class="name" x="{LEFT + 8}" y="{TOP - 8}">{name}</text>',
        ]
    )


def _by_gain(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(report["points"], key=lambda point: -float(point["measured"]["margin"]["value"]))
