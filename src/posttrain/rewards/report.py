"""A reward model's evaluation as one HTML file that opens offline: slices, reliability diagram, probes."""

import math
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from posttrain.config.files import write_text
from posttrain.metrics import Interval, ReliabilityBin
from posttrain.rewards.evaluation import ALL, CalibrationResult, RewardEvaluation

_WIDTH, _HEIGHT, _LEFT, _TOP = 560, 380, 50, 12
_PLOT_WIDTH, _PLOT_HEIGHT = 480, 320
_BEFORE, _AFTER = "#9aa5b1", "#1f5fbf"


def write_reward_report(path: str | Path, result: RewardEvaluation) -> None:
    """Write the report. Names and warnings are escaped."""
    environment = Environment(
        loader=PackageLoader("posttrain.rewards", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("reward.html.jinja").render(
        result=result,
        overall=result.slices[ALL],
        calibration=result.calibration,
        diagram=_diagram(result.calibration) if result.calibration else "",
        bar=_bar,
        rate=_rate,
    )
    write_text(path, text)


def report_lines(result: RewardEvaluation) -> list[str]:
    """The same for a terminal."""
    width = max(map(len, result.slices))
    lines = [f"{'slice':{width}}  pairs  accuracy  95 % interval   ties"]
    for name, entry in result.slices.items():
        rate = entry.accuracy
        lines.append(f"{name:{width}}  {entry.pairs:5}  {rate.value:8.3f}  {rate.low:.3f} to {rate.high:.3f}  {entry.ties:4}")
    if measured := result.calibration:
        lines.append(
            f"calibration error {measured.ece_before:.3f} before, {measured.ece_after:.3f} after T = {measured.temperature:.3g} "
            f"(by chance {measured.ece_by_chance:.3f}, at most {measured.ece_by_chance_95:.3f})"
        )
    lines += [
        f"probe {probe.name}: {probe.shift.value:+.3f} [{probe.shift.low:+.3f}, {probe.shift.high:+.3f}] deviations: {probe.verdict}"
        for probe in result.probes
    ]
    if rho := result.length_correlation:
        lines.append(f"rank correlation with length within pairs {rho.value:+.2f} [{rho.low:+.2f}, {rho.high:+.2f}]")
    return [*lines, *(f"warning: {warning}" for warning in result.warnings)]


def _rate(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _bar(interval: Interval) -> Markup:
    """Accuracy from 0 to 1 as a whisker with a dot and a line at one half."""
    low, high, value = (120 * part for part in (interval.low, interval.high, interval.value))
    return Markup(
        f'<svg width="130" height="14" viewBox="-5 0 130 14" role="img" aria-label="{interval.value:.3f}">'
        '<line x1="60" x2="60" y1="0" y2="14" stroke="#9aa5b1" stroke-dasharray="2 2"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="7" y2="7" stroke="{_AFTER}" stroke-width="2"/>'
        f'<circle cx="{value:.1f}" cy="7" r="3.5" fill="{_AFTER}"/></svg>'
    )


def _diagram(calibration: CalibrationResult) -> Markup:
    """Observed share over stated probability (.5 to 1), before and after the temperature, with the diagonal."""
    parts = [
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="reliability diagram">',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_PLOT_WIDTH}" height="{_PLOT_HEIGHT}" fill="none" stroke="#9aa5b1"/>',
        _line((_x(0.5), _y(0.5)), (_x(1.0), _y(1.0)), "#55606e", dashed=True),
    ]
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(f'<text x="{_x(tick):.1f}" y="{_TOP + _PLOT_HEIGHT + 18}" text-anchor="middle">{tick:.1f}</text>')
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<text x="{_LEFT - 8}" y="{_y(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>')
    parts += _points(calibration.bins_before, _BEFORE) + _points(calibration.bins_after, _AFTER)
    middle, bottom = _LEFT + _PLOT_WIDTH / 2, _HEIGHT - 8
    parts.append(f'<text x="{middle}" y="{bottom}" text-anchor="middle">stated probability of the preferred answer</text>')
    for number, (colour, label) in enumerate(((_BEFORE, "before"), (_AFTER, f"after, T = {calibration.temperature:.3g}"))):
        parts.append(f'<circle cx="{_LEFT + 16}" cy="{_TOP + 18 + 18 * number}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{_LEFT + 28}" y="{_TOP + 22 + 18 * number}">{label}</text>')
    return Markup("".join([*parts, "</svg>"]))


def _points(bins: Sequence[ReliabilityBin], colour: str) -> list[str]:
    most = max((entry.count for entry in bins), default=1)
    parts = []
    for entry in bins:
        x = _x(entry.stated)
        parts.append(_line((x, _y(entry.observed_low)), (x, _y(entry.observed_high)), colour))
        radius = 3 + 6 * math.sqrt(entry.count / most)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{_y(entry.observed):.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.85">'
            f"<title>{entry.count} pairs: stated {entry.stated:.3f}, observed {entry.observed:.3f}</title></circle>"
        )
    return parts


def _line(begin: tuple[float, float], end: tuple[float, float], colour: str, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<line x1="{begin[0]:.1f}" y1="{begin[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="{colour}"{dashes}/>'


def _x(stated: float) -> float:
    return _LEFT + (stated - 0.5) / 0.5 * _PLOT_WIDTH


def _y(observed: float) -> float:
    return _TOP + (1 - observed) * _PLOT_HEIGHT
