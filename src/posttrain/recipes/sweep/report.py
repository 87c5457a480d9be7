"""A sweep as a page that opens offline: target gain against drift, every point labelled, and the figures with their intervals."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from posttrain.config.files import write_text

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 16, 50
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
    """Drift (nats an answer) to the right, accuracy (per cent) upwards; crosses are 95 % intervals, the dashed line is chance."""
    points = report["points"]
    betas = sorted({point["beta"] for point in points})
    spans = [_span([point["measured"][name] for point in points], least) for name, least in (("kl", 0.0), ("accuracy", 0.5))]
    (x_low, x_high), (y_low, y_high) = spans

    def x(value: float) -> float:
        return LEFT + (min(max(value, x_low), x_high) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (min(max(value, y_low), y_high) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(x, y, spans)]
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda entry: entry["measured"]["kl"]["value"]):
        drift, gain = point["measured"]["kl"], point["measured"]["accuracy"]
        cx, cy, label = x(drift["value"]), y(gain["value"]), f"β {point['beta']:g} · {point['learning_rate']:g}"
        x1, x2 = (x(value) for value in _bounds(drift, x_low, x_high))
        y1, y2 = (y(value) for value in _bounds(gain, y_low, y_high))
        height = cy - 8
        while any(abs(cx - other_x) < 110 and abs(height - other_y) < 13 for other_x, other_y in taken):
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


def _bounds(interval: Mapping[str, Any], low: float, high: float) -> tuple[float, float]:
    return (low if interval["low"] is None else interval["low"], high if interval["high"] is None else interval["high"])


def _span(intervals: Sequence[Mapping[str, Any]], include: float) -> tuple[float, float]:
    """From lowest to highest bound, ``include`` among them, with a little room; bounds that are not known do not count."""
    known = [interval[side] for interval in intervals for side in ("value", "low", "high") if interval[side] is not None]
    low, high = min([include, *known]), max([include, *known])
    room = 0.06 * (high - low) or 0.05
    return low - room, high + room


def _axes(x: Any, y: Any, spans: Sequence[tuple[float, float]]) -> str:
    (x_low, x_high), (y_low, y_high) = spans
    ticks = []
    for step in range(5):
        drift, gain = x_low + (x_high - x_low) * step / 4, y_low + (y_high - y_low) * step / 4
        ticks.append(f'<text class="tick" x="{x(drift):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{drift:.2g}</text>')
        ticks.append(f'<text class="tick" x="{LEFT - 8}" y="{y(gain) + 4:.1f}" text-anchor="end">{100 * gain:.0f} %</text>')
    frame = f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    chance = f'<line class="chance" x1="{LEFT}" y1="{y(0.5):.1f}" x2="{WIDTH - RIGHT}" y2="{y(0.5):.1f}"/>'
    names = (
        f'<text class="name" x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">drift: KL to the start model, nats an answer</text>'
    )
    return frame + chance + "".join(ticks) + names
