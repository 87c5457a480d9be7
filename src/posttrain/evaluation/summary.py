"""From samples to figures: rates with intervals and unscored bounds, overall and by slice; tokens; latency by machine."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from posttrain.evaluation.results import CaseInfo, SampleResult
from posttrain.evaluation.scores import Kind, Score
from posttrain.metrics import Interval, mean_interval, pass_at_k, percentile_interval, proportion_interval


@dataclass(frozen=True, slots=True)
class Rate:
    """A figure over the samples of a slice.

    ``value`` and [low, high] are over the scored samples (None when there are none). ``value_low`` and ``value_high`` are the
    figure if every unscored sample had failed or passed; ``bound_low`` and ``bound_high`` add the interval to that, and are what
    a gate reads. For amounts, which have no worst value, unscored samples make these bounds None.
    """

    kind: Kind
    num_samples: int
    num_scored: int
    num_unscored: int
    num_not_applicable: int
    num_groups: int
    value: float | None
    low: float | None
    high: float | None
    value_low: float | None
    value_high: float | None
    bound_low: float | None
    bound_high: float | None
    confidence: float
    method: str

    @property
    def num_applicable(self) -> int:
        """Scored and unscored."""
        return self.num_scored + self.num_unscored

    @property
    def unscored_share(self) -> float:
        """Of the applicable samples, the share that could not be scored."""
        return self.num_unscored / self.num_applicable if self.num_applicable else 0.0


def rate_of(scores: Sequence[Score], groups: Sequence[str], *, confidence: float = 0.95) -> Rate:
    """The :class:`Rate` of one score over samples; both inputs are [sample]."""
    kind: Kind = next((score.kind for score in sorted(scores, key=lambda score: score.status != "scored")), "pass")
    applicable = [(score, group) for score, group in zip(scores, groups, strict=True) if score.status != "not_applicable"]
    known = [(score.value, group) for score, group in applicable if score.value is not None]
    num_unscored = len(applicable) - len(known)
    middle = _interval([value for value, _ in known], [group for _, group in known], kind, confidence)
    if not num_unscored:
        bottom = top = middle
    elif kind == "amount":
        bottom = top = None
    else:
        places = [group for _, group in applicable]
        bottom = _interval([0.0 if score.value is None else score.value for score, _ in applicable], places, kind, confidence)
        top = _interval([1.0 if score.value is None else score.value for score, _ in applicable], places, kind, confidence)
    return Rate(
        kind=kind,
        num_samples=len(scores),
        num_scored=len(known),
        num_unscored=num_unscored,
        num_not_applicable=len(scores) - len(applicable),
        num_groups=len({group for _, group in applicable}),
        value=middle.value if middle else None,
        low=_finite(middle.low) if middle else None,
        high=_finite(middle.high) if middle else None,
        value_low=bottom.value if bottom else None,
        value_high=top.value if top else None,
        bound_low=_finite(bottom.low) if bottom else None,
        bound_high=_finite(top.high) if top else None,
        confidence=confidence,
        method=middle.method if middle else "no scored sample",
    )


def _interval(values: list[float], groups: list[str], kind: Kind, confidence: float) -> Interval | None:
    if not values:
        return None
    if kind == "pass":
        return proportion_interval(values, groups=groups, confidence=confidence)
    interval = mean_interval(values, groups=groups, confidence=confidence)
    if kind == "amount":
        return interval
    return Interval(interval.value, max(0.0, interval.low), min(1.0, interval.high), interval.n, confidence, interval.method)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def members(samples: Iterable[SampleResult], cases: Mapping[str, CaseInfo], slice_name: str | None) -> list[SampleResult]:
    """The samples whose case is in a slice; None is all of them."""
    return [sample for sample in samples if slice_name is None or slice_name in cases[sample.case].slices]


def summarise(
    samples: Sequence[SampleResult], cases: Mapping[str, CaseInfo], slices: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """The content of ``summary.json`` (see docs/evaluation.md), from all samples of an evaluation."""
    scores: dict[str, Any] = {}
    for name in names:
        by_slice = {}
        for slice_name in (None, *slices):
            chosen = members(samples, cases, slice_name)
            rate = rate_of([s.scores[name] for s in chosen], [cases[s.case].group for s in chosen])
            by_slice[slice_name] = asdict(rate) | {"unscored_share": rate.unscored_share}
        labels = [s.scores[name].label for s in samples if s.scores[name].label]
        scores[name] = {
            "overall": by_slice.pop(None),
            "slices": by_slice,
            "labels": {label: labels.count(label) for label in sorted(set(labels))},
            "pass_at_k": _pass_at_k(samples, name),
        }
    return {
        "num_cases": len({s.case for s in samples}),
        "num_samples": len(samples),
        "scores": scores,
        "finish_reasons": {r: sum(s.finish_reason == r for s in samples) for r in sorted({s.finish_reason for s in samples})},
        "tokens": {
            "prompt": _amounts([s.num_prompt_tokens for s in samples]),
            "completion": _amounts([s.num_completion_tokens for s in samples]),
        },
        "latency": latency_of(samples),
        **_tool_use([sample for sample in samples if sample.transcript]),
    }


def _tool_use(samples: Sequence[SampleResult]) -> dict[str, Any]:
    """Calls per request of the answers that had tools, and the share of calls that failed; nothing where none had."""
    if not samples:
        return {}
    failed = [bool(call["is_error"]) for sample in samples for call in sample.calls]
    amounts = _amounts([len(sample.calls) for sample in samples])
    return {"tool_calls": {"num_samples": len(samples), **amounts, "failed_share": sum(failed) / len(failed) if failed else 0.0}}


def latency_of(samples: Iterable[SampleResult]) -> list[dict[str, Any]]:
    """Seconds per request, p50 and p95 with intervals, for each machine and concurrency. Cached answers have no latency."""
    measured: dict[tuple[str, int], list[float]] = {}
    for sample in samples:
        if sample.seconds is not None:
            measured.setdefault((sample.machine, sample.concurrency), []).append(sample.seconds)
    rows = []
    for (machine, concurrency), seconds in sorted(measured.items(), key=lambda item: -len(item[1])):
        row: dict[str, Any] = {"machine": machine, "concurrency": concurrency, "num_measured": len(seconds)}
        for percent in (50, 95):
            interval = percentile_interval(seconds, percent)
            row[f"p{percent}"] = {"value": interval.value, "low": _finite(interval.low), "high": _finite(interval.high)}
        rows.append(row)
    return rows


def _amounts(values: Sequence[int]) -> dict[str, float]:
    array = np.asarray(values, dtype=np.float64)
    p50, p95 = np.quantile(array, [0.5, 0.95])
    return {"total": float(array.sum()), "mean": float(array.mean()), "p50": float(p50), "p95": float(p95)}


def _pass_at_k(samples: Sequence[SampleResult], name: str) -> dict[str, float]:
    """Mean unbiased pass@k over cases whose samples are all scored passes or fails; empty with one sample a case."""
    by_case: dict[str, list[float]] = {}
    for sample in samples:
        score = sample.scores[name]
        if score.kind == "pass" and score.value is not None:
            by_case.setdefault(sample.case, []).append(score.value)
    n = max((len(values) for values in by_case.values()), default=0)
    whole = [int(sum(values)) for values in by_case.values() if len(values) == n]
    ks = sorted({k for k in (1, 2, 3, 5, 10, 50, 100) if k <= n} | {n}) if n > 1 else []
    return {str(k): float(np.mean([pass_at_k(n, correct, k) for correct in whole])) for k in ks}


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """A summary for the terminal: a line a score, then tokens and latency."""
    suite = summary["suite"]
    lines = [f"{suite['name']} {suite['version']}: {summary['num_samples']} samples of {summary['num_cases']} cases"]
    width = max(len(name) for name in summary["scores"])
    for name, entry in summary["scores"].items():
        lines.append(f"  {name:<{width}}  {_rate_line(entry['overall'])}")
    tokens = summary["tokens"]
    lines.append(f"  tokens: prompt mean {tokens['prompt']['mean']:.0f}, answer mean {tokens['completion']['mean']:.1f}")
    if calls := summary.get("tool_calls"):
        failed = f", {100 * calls['failed_share']:.1f} % of them failed" if calls["total"] else ""
        lines.append(f"  tool calls: mean {calls['mean']:.2f}, p95 {calls['p95']:.0f} a request with tools{failed}")
    for place in summary["latency"]:
        p50, p95 = place["p50"]["value"], place["p95"]["value"]
        where = f"{place['num_measured']} answers, {place['machine']}, {place['concurrency']} at once"
        lines.append(f"  latency: p50 {p50:.2f} s, p95 {p95:.2f} s ({where})")
    return lines if summary["latency"] else [*lines, "  latency: not measured, every answer came from the cache"]


def _rate_line(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return "no scored sample" + (f" ({rate['num_unscored']} unscored)" if rate["num_unscored"] else "")
    scale, unit = (1.0, "") if rate["kind"] == "amount" else (100.0, " %")
    low, high = ("?" if rate[side] is None else f"{scale * rate[side]:.1f}" for side in ("low", "high"))
    text = f"{scale * rate['value']:.1f}{unit} [{low}, {high}], n {rate['num_scored']}"
    if rate["num_unscored"] and rate["value_low"] is not None:
        bounds = f"{scale * rate['value_low']:.1f} to {scale * rate['value_high']:.1f}"
        text += f"; {rate['num_unscored']} unscored: {bounds} if they failed or passed"
    return text
