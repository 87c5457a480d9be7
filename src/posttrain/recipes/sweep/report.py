"""A sweep as a page that opens offline: target gain against drift, every point labelled, and the figures with their intervals."""

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from posttrain.config.files import write_text

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 30, 50
DRIFT_AXIS = "drift: KL to the start model, nats an answer (square-root scale)"
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
    rows = sorted(report["points"], key=lambda point: -point["measured"]["accuracy"]["value"])
    page = environment.get_template("page.html.jinja").render(report=report, rows=rows, plot=plot(report), figure=figure)
    write_text(path, page)


def sweep_text(report: Mapping[str, Any]) -> str:
    """The figures as a table for the terminal; * marks the points that no other beats in both accuracy and drift."""
    rows = [("", "beta", "learning rate", "accuracy, %", "drift, nats", "better answers, nats")]
    for point in sorted(report["points"], key=lambda entry: -entry["measured"]["accuracy"]["value"]):
        measured, mark = point["measured"], "*" if point["name"] in report["frontier"] else ""
        figures = figure(measured["accuracy"], scale=100), figure(measured["kl"]), figure(measured["chosen_change"])
        rows.append((mark, f"{point['beta']:g}", f"{point['learning_rate']:g}", *figures))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def figure(interval: Mapping[str, Any], *, scale: float = 1.0, unit: str = "") -> str:
    """``value [low, high]``; a bound the pairs cannot give is a question mark."""
    low, high = ("?" if interval[side] is None else f"{scale * interval[side]:.2f}" for side in ("low", "high"))
    return f"{scale * interval['value']:.2f}{unit} [{low}, {high}]"


def plot(report: Mapping[str, Any]) -> Markup:
    """Drift to the right (nats an answer, on a square-root scale), accuracy upwards; lines are 95 % intervals, cut off at the frame.

    KL grows with the square of a small step, so equal steps away from the start model are equal distances here (as in Gao et al. 2023,
    arXiv:2210.10760, section 3).
    """
    points = sorted(report["points"], key=lambda point: point["measured"]["kl"]["value"])
    betas = sorted({point["beta"] for point in points})
    reach = 1.15 * (max(point["measured"]["kl"]["value"] for point in points) or 1.0)
    accuracies = [point["measured"]["accuracy"] for point in points]
    floor = min(0.45, *(interval["low"] for interval in accuracies if interval["low"] is not None))
    parts = [_axes(reach, floor)]
    taken: list[tuple[float, float]] = []
    for point in points:
        drift, gain = point["measured"]["kl"], point["measured"]["accuracy"]
        cx, cy, label = _x(drift["value"], reach), _y(gain["value"], floor), f"β {point['beta']:g} · {point['learning_rate']:g}"
        x1, x2 = _x(drift["low"] or 0.0, reach), _x(reach if drift["high"] is None else drift["high"], reach)
        y1, y2 = _y(gain["low"] or floor, floor), _y(1.0 if gain["high"] is None else gain["high"], floor)
        height = cy - 8
        while any(abs(cx - other_x) < 115 and abs(height - other_y) < 13 for other_x, other_y in taken):
            height += 13
        taken.append((cx, height))
        anchor, shift = ("end", -8) if cx > WIDTH - 130 else ("start", 8)
        kind = f"b{betas.index(point['beta']) % COLOURS}" + (" front" if point["name"] in report["frontier"] else "")
        parts.append(
            f'<g class="{kind}"><line x1="{x1:.1f}" y1="{cy:.1f}" x2="{x2:.1f}" y2="{cy:.1f}"/>'
            f'<line x1="{cx:.1f}" y1="{y1:.1f}" x2="{cx:.1f}" y2="{y2:.1f}"/><circle cx="{cx:.1f}" cy="{cy:.1f}" r="5"/>'
            f'<text x="{cx + shift:.1f}" y="{height:.1f}" text-anchor="{anchor}">{escape(label)}</text></g>'
        )
    title = "target gain against drift, a point each setting"
    return Markup(f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>')


def _x(drift: float, reach: float) -> float:
    return LEFT + math.sqrt(min(max(drift, 0.0) / reach, 1.0)) * (WIDTH - LEFT - RIGHT)


def _y(accuracy: float, floor: float) -> float:
    return HEIGHT - BOTTOM - max(accuracy - floor, 0.0) / (1 - floor) * (HEIGHT - TOP - BOTTOM)


def _axes(reach: float, floor: float) -> str:
    base, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    ticks = [(reach * step**2 / 16, floor + (1 - floor) * step / 4) for step in range(5)]
    return "".join(
        [
            f'<path class="axis" d="M{LEFT} {TOP}V{base}H{end}"/>',
            f'<line class="chance" x1="{LEFT}" y1="{_y(0.5, floor):.1f}" x2="{end}" y2="{_y(0.5, floor):.1f}"/>',
            *(
                f'<text class="tick" x="{_x(drift, reach):.1f}" y="{base + 18}" text-anchor="middle">{drift:.2g}</text>'
                for drift, _ in ticks
            ),
            *(
                f'<text class="tick" x="{LEFT - 8}" y="{_y(gain, floor) + 4:.1f}" text-anchor="end">{100 * gain:.0f} %</text>'
                for _, gain in ticks
            ),
            f'<text class="name" x="{end}" y="{HEIGHT - 8}" text-anchor="end">{DRIFT_AXIS}</text>',
            f'<text class="name" x="{LEFT + 8}" y="{TOP - 8}">accuracy on held-out pairs</text>',
        ]
    )
