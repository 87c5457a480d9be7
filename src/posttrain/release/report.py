"""The gate's report: one HTML file that opens offline and begins with the verdict. Model output is escaped everywhere."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from posttrain.config.files import write_text
from posttrain.evaluation import CaseInfo, EvaluationResult, Rate, SampleResult, Score
from posttrain.release.gate import GOOD, Gate
from posttrain.release.samples import cost_of, good_score
from posttrain.release.transcripts import transcript_view
from posttrain.release.verdict import Check, Comparison, SampleChange, Verdict

_CHECK_ORDER = ("infrastructure", "block", "inconclusive", "pass")
_CHANGE_ORDER = ("regressed", "unknown", "both_bad", "improved", "both_good")
CHANGE_NAMES = {
    "regressed": "regressed",
    "unknown": "unknown",
    "both_bad": "bad in both",
    "improved": "improved",
    "both_good": "good in both",
}
_TEXT_LIMIT = 20_000
_ENDINGS = {
    "length": "cut at the token limit",
    "max_steps": "stopped at the step limit",
    "max_tokens": "stopped at the episode's token limit",
    "budget": "stopped by its budget",
    "error": "broke off",
}


@dataclass(frozen=True, slots=True)
class ReportSection:
    """A further section: a table (``columns``, ``rows``; escaped) or ``html``, which is put in as it is, so escape what is in it."""

    title: str
    rows: Sequence[Sequence[Any]] = ()
    columns: Sequence[str] = ()
    html: str = ""
    note: str = ""


def write_report(
    path: str | Path,
    verdict: Verdict,
    candidate: EvaluationResult,
    baseline: EvaluationResult,
    gate: Gate,
    *,
    sections: Sequence[ReportSection] = (),
    title: str = "",
) -> None:
    """Write the report of a verdict. ``sections`` follow the gate's own (training curve, curation, lineage)."""
    environment = Environment(
        loader=PackageLoader("posttrain.release", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        title=title or f"{gate.config.name}: {verdict.candidate}",
        verdict=verdict,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=_facts(verdict, candidate, baseline, gate),
        checks=sorted(verdict.checks, key=lambda check: _CHECK_ORDER.index(check.outcome)),
        check_plot=_check_plot,
        comparisons=[_comparison(row) for row in verdict.comparisons],
        speed=_speed(candidate, baseline, gate),
        samples=[_sample(change, candidate, baseline, gate) for change in sorted(verdict.changes, key=_sample_order)],
        change_names=CHANGE_NAMES,
        counts={name: sum(change.change == name for change in verdict.changes) for name in _CHANGE_ORDER},
        slices=gate.suite.slices,
        sections=[{"section": section, "html": Markup(section.html)} for section in (*_two_metric_sections(verdict), *sections)],
        number=_number,
    )
    write_text(path, page)


def _two_metric_sections(verdict: Verdict) -> list[ReportSection]:
    """The two-metric reading: its figures, whole and by slice, and the samples that show it."""
    reading = verdict.two_metric
    if reading is None:
        return []
    rows: list[tuple[Any, ...]] = [
        ("", f.role, f.metric, f.text.removeprefix(f"{f.metric} "), f.required, f.num_samples) for f in reading.overall.figures
    ]
    rows += [(part.slice, "verdict", part.verdict, part.reason, "", "") for part in reading.slices]
    shown = []
    for row in reading.rows:
        moved = ", ".join(f"{name} {_known(before)} → {_known(after)}" for name, (before, after) in row.values.items())
        shown.append((f"{row.case}#{row.sample}", moved))
    title = f"Targets and guardrails: {reading.overall.verdict}"
    sections = [ReportSection(title, rows, ("slice", "", "figure", "difference", "required", "n"), note=reading.overall.reason)]
    return [*sections, ReportSection("Samples that show it", shown, ("sample", "before → after"))] if shown else sections


def _known(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.3g}"


def _sample_order(change: SampleChange) -> tuple[int, str, int]:
    return _CHANGE_ORDER.index(change.change), change.case, change.sample


def _facts(verdict: Verdict, candidate: EvaluationResult, baseline: EvaluationResult, gate: Gate) -> list[tuple[str, str]]:
    summary = candidate.summary
    return [
        ("Candidate", verdict.candidate),
        ("Version in service", verdict.baseline),
        ("Suite", f"{verdict.suite} · {summary['num_cases']} cases · frozen {gate.suite_frozen_at[:16].replace('T', ' ')}"),
        ("Gate", f"{verdict.gate} · frozen {gate.frozen_at[:16].replace('T', ' ')}"),
        ("Good means", " and ".join(_requirement(part.score, part.low, part.max) for part in gate.config.good.requires)),
        ("Suite hash", verdict.suite_hash[:24]),
        ("Candidate hash", str(candidate.run["generator_hash"])[:24]),
        ("Baseline hash", str(baseline.run["generator_hash"])[:24]),
    ]


def _requirement(name: str, low: float | None, high: float | None) -> str:
    if high is None:
        return name if low == 1 else f"{name} ≥ {low:g}"
    return f"{name} ≤ {high:g}" if low is None else f"{low:g} ≤ {name} ≤ {high:g}"


def _number(value: float | None, kind: str = "pass") -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if kind == "amount" else f"{100 * value:.1f} %"


# ---- figures ---------------------------------------------------------------------------------------------------------------


def _comparison(row: Comparison) -> dict[str, Any]:
    kind = row.candidate.kind
    difference = row.difference
    verdict = ""
    if difference is not None and kind != "amount":
        verdict = "better" if difference.low > 0 else "worse" if difference.high < 0 else ""
    return {
        "metric": row.metric,
        "slice": row.slice,
        "kind": kind,
        "n": row.candidate.num_applicable,
        "unscored": row.candidate.num_unscored,
        "baseline": _rate_text(row.baseline),
        "candidate": _rate_text(row.candidate),
        "difference": "–" if difference is None else _signed(difference.value, kind),
        "difference_interval": "" if difference is None else f"{_signed(difference.low, kind)} to {_signed(difference.high, kind)}",
        "verdict": verdict,
        "plot": _interval_plot(row.baseline, row.candidate) if kind != "amount" else "",
    }


def _rate_text(rate: Rate) -> dict[str, str]:
    interval = f"{_number(rate.low, rate.kind)} to {_number(rate.high, rate.kind)}" if rate.value is not None else ""
    bounds = f"if unscored failed or passed: {_number(rate.value_low, rate.kind)} to {_number(rate.value_high, rate.kind)}"
    return {"value": _number(rate.value, rate.kind), "interval": interval, "bounds": bounds if rate.num_unscored else ""}


def _signed(value: float, kind: str) -> str:
    return f"{value:+.3g}" if kind == "amount" else f"{100 * value:+.1f}"


_WIDTH = 180


def _interval_plot(baseline: Rate, candidate: Rate) -> Markup:
    """Two intervals on a scale from 0 to 1: before (hollow) above after (filled). Numbers only, so nothing to escape."""
    parts = [f'<line class="axis" x1="0" y1="23.5" x2="{_WIDTH}" y2="23.5"/>']
    parts += [f'<line class="axis" x1="{x * _WIDTH:.0f}" y1="21" x2="{x * _WIDTH:.0f}" y2="26"/>' for x in (0, 0.25, 0.5, 0.75, 1)]
    for rate, y, name in ((baseline, 8, "before"), (candidate, 16, "after")):
        if rate.value is not None and rate.low is not None and rate.high is not None:
            x1, x, x2 = (4 + value * (_WIDTH - 8) for value in (rate.low, rate.value, rate.high))
            parts.append(
                f'<g class="{name}"><line x1="{x1:.1f}" y1="{y}" x2="{x2:.1f}" y2="{y}"/><circle cx="{x:.1f}" cy="{y}" r="3.5"/></g>'
            )
    return Markup(f'<svg class="plot" viewBox="0 0 {_WIDTH} 28" width="{_WIDTH}" height="28" aria-hidden="true">{"".join(parts)}</svg>')


def _check_plot(check: Check) -> Markup:
    """The interval of a non-inferiority check around zero, on a scale of at least five points each way."""
    if check.kind != "non_inferiority" or check.value is None or check.low is None or check.high is None:
        return Markup("")
    reach = max(0.05, abs(check.low), abs(check.high))
    x1, x, x2, zero = (4 + (value / reach + 1) / 2 * (_WIDTH - 8) for value in (check.low, check.value, check.high, 0.0))
    body = f'<line class="axis" x1="{zero:.1f}" y1="2" x2="{zero:.1f}" y2="22"/>'
    body += f'<g class="after"><line x1="{x1:.1f}" y1="12" x2="{x2:.1f}" y2="12"/><circle cx="{x:.1f}" cy="12" r="3.5"/></g>'
    return Markup(f'<svg class="plot" viewBox="0 0 {_WIDTH} 24" width="{_WIDTH}" height="24" aria-hidden="true">{body}</svg>')


def _speed(candidate: EvaluationResult, baseline: EvaluationResult, gate: Gate) -> list[dict[str, str]]:
    """Tokens, cost and latency, a row each version; latency by machine and concurrency, of measured answers only."""
    rows = []
    for name, result in (("version in service", baseline), ("candidate", candidate)):
        tokens, latency, calls = result.summary["tokens"], result.summary["latency"], result.summary.get("tool_calls")
        costs = [cost_of(sample, gate.config) for sample in result.samples.values()]
        for place in latency or [None]:
            rows.append(
                {
                    "name": name,
                    "prompt": f"{tokens['prompt']['mean']:.0f}",
                    "completion": f"{tokens['completion']['mean']:.1f}",
                    "calls": f"{calls['mean']:.2f} (p95 {calls['p95']:.0f})" if calls else "–",
                    "cost": f"{1000 * sum(costs) / len(costs):.4g} {gate.config.prices.currency}" if any(costs) else "–",
                    "p50": _seconds(place and place["p50"]),
                    "p95": _seconds(place and place["p95"]),
                    "n": str(place["num_measured"]) if place else "0",
                    "where": f"{place['machine']}, {place['concurrency']} at once" if place else "all answers came from the cache",
                }
            )
    return rows


def _seconds(figure: Mapping[str, float | None] | None) -> str:
    if not figure:
        return "–"
    low, high = (("?" if figure[side] is None else f"{figure[side]:.2f}") for side in ("low", "high"))
    return f"{figure['value']:.2f} s ({low} to {high})"


# ---- samples ---------------------------------------------------------------------------------------------------------------


def _sample(change: SampleChange, candidate: EvaluationResult, baseline: EvaluationResult, gate: Gate) -> dict[str, Any]:
    key = (change.case, change.sample)
    case, before, after = candidate.cases[change.case], baseline.samples[key], candidate.samples[key]
    old, new = diff_parts(before.text[:_TEXT_LIMIT], after.text[:_TEXT_LIMIT])
    return {
        "id": change.case + (f" #{change.sample}" if gate.suite.config.samples_per_case > 1 else ""),
        "change": change.change,
        "slices": case.slices,
        "excerpt": _excerpt(case),
        "messages": [_message(message) for message in case.messages],
        "expected": _pretty(case.expected),
        "before": {"parts": old, "note": _note(before), **transcript_view(before)},
        "after": {"parts": new, "note": _note(after), **transcript_view(after)},
        "scores": [_score_row(name, before.scores[name], after.scores[name]) for name in gate.suite.score_names]
        + [_score_row(GOOD, good_score(before, gate.config), good_score(after, gate.config))],
    }


def _message(message: Mapping[str, Any]) -> dict[str, str]:
    calls = message.get("tool_calls")
    return {"role": str(message["role"]), "content": str(message.get("content", "")) + ("\n" + _pretty(calls) if calls else "")}


def _excerpt(case: CaseInfo) -> str:
    """The last line the model is asked, which is mostly the question."""
    lines = [line for line in str(case.messages[-1].get("content", "")).splitlines() if line.strip()]
    text = lines[-1].strip() if lines else ""
    return text if len(text) <= 160 else text[:157] + "..."


def _note(sample: SampleResult) -> str:
    seconds = "cached" if sample.seconds is None else f"{sample.seconds:.2f} s"
    calls = f" · {len(sample.calls)} tool call{'s' * (len(sample.calls) != 1)}" if sample.transcript else ""
    ended = f" · {_ENDINGS[sample.finish_reason]}" if sample.finish_reason in _ENDINGS else ""
    return f"{sample.num_completion_tokens} tokens · {seconds}{calls}{ended}"


def _score_row(name: str, before: Score, after: Score) -> dict[str, str]:
    return {"name": name, "before": _score_text(before), "after": _score_text(after), "reason": after.reason or before.reason}


def _score_text(score: Score) -> str:
    if score.status == "not_applicable":
        return "–"
    if score.value is None:
        return "unscored"
    text = ("pass" if score.value == 1 else "fail") if score.kind == "pass" else f"{score.value:.3g}"
    return f"{text} ({score.label})" if score.label else text


def _pretty(value: Any) -> str:
    if isinstance(value, str):
        return value
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= 200 else json.dumps(value, indent=1, ensure_ascii=False)


Parts = list[tuple[str, bool]]


def diff_parts(before: str, after: str) -> tuple[Parts, Parts]:
    """Both texts cut where they differ, by words: ``(text, changed)`` pieces that join to the original."""
    old, new = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (before, after))
    left: Parts = []
    right: Parts = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old[:2000], new[:2000], autojunk=False).get_opcodes():
        if i2 > i1:
            left.append(("".join(old[i1:i2]), tag != "equal"))
        if j2 > j1:
            right.append(("".join(new[j1:j2]), tag != "equal"))
    if len(old) > 2000:
        left.append(("".join(old[2000:]), False))
    if len(new) > 2000:
        right.append(("".join(new[2000:]), False))
    return left, right
