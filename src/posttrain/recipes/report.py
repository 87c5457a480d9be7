"""What a run shows at its end: a table for the terminal, and the gate's report with the run's own sections."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.recipes.recipe import LoadedRecipe
from posttrain.recipes.steps import StepResult
from posttrain.release import Gate, ReportSection, judge, write_report

if TYPE_CHECKING:
    from posttrain.recipes.run import RunOutcome


def write_recipe_report(loaded: LoadedRecipe, gate: Gate, steps: Sequence[StepResult], before: Path, after: Path, path: Path) -> Path:
    """One offline HTML page: verdict first, then the samples, then how the model was made."""
    from posttrain.evaluation import EvaluationResult

    candidate, baseline = EvaluationResult.load(after), EvaluationResult.load(before)
    made = [*_training_sections(steps), *_reward_sections(steps), *_label_sections(steps), *_data_sections(steps)]
    sections = [*made, _step_section(steps), _lineage_section(steps)]
    title = f"{loaded.recipe.name}: {candidate.name} against {baseline.name}"
    write_report(path, judge(candidate, baseline, gate), candidate, baseline, gate, sections=sections, title=title)
    return path


def outcome_text(outcome: "RunOutcome") -> str:
    """Before and after with 95 % intervals, the verdict, where the report is."""
    if not outcome.verdict:
        return "\n".join(f"{step.state:>7}  {step.name}" for step in outcome.steps)
    before, after = (json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in (outcome.before, outcome.after))
    rows = [("", "n", "before", "after")]
    for name, entry in after["scores"].items():
        rows.append((name, str(entry["overall"]["num_scored"]), _rate(before["scores"][name]["overall"]), _rate(entry["overall"])))
    for kind in ("prompt", "completion"):
        rows.append((f"{kind} tokens", str(after["num_samples"]), _amount(before["tokens"][kind]), _amount(after["tokens"][kind])))
    if "tool_calls" in after:
        count, old, new = str(after["tool_calls"]["num_samples"]), before.get("tool_calls"), after["tool_calls"]
        rows.append(("tool calls a request", count, _calls(old), _calls(new)))
    for percent in ("p50", "p95"):
        rows.append((f"latency {percent}, s", _measured(after), _latency(before, percent), _latency(after, percent)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    table = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return f"{table}\n\nverdict: {outcome.verdict}: {outcome.headline}\nreport:  {outcome.report}"


def _rate(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "–"
    if entry["kind"] == "amount":
        value, low, high = ("?" if entry[key] is None else f"{entry[key]:.3g}" for key in ("value", "low", "high"))
        return f"{value} [{low}, {high}]"
    low, high = ("?" if entry[key] is None else f"{100 * entry[key]:.1f}" for key in ("low", "high"))
    return f"{100 * entry['value']:.1f} % [{low}, {high}]"


def _amount(entry: Mapping[str, Any]) -> str:
    return f"mean {entry['mean']:.0f}, p95 {entry['p95']:.0f}"


def _calls(entry: Mapping[str, Any] | None) -> str:
    return f"mean {entry['mean']:.2f}, p95 {entry['p95']:.0f}" if entry else "–"


def _latency(summary: Mapping[str, Any], percent: str) -> str:
    if not summary["latency"]:
        return "from the cache"
    entry = summary["latency"][0][percent]
    low, high = ("?" if entry[key] is None else f"{entry[key]:.2f}" for key in ("low", "high"))
    return f"{entry['value']:.2f} [{low}, {high}]"


def _measured(summary: Mapping[str, Any]) -> str:
    return str(summary["latency"][0]["num_measured"]) if summary["latency"] else "0"


def _training_sections(steps: Sequence[StepResult]) -> list[ReportSection]:
    sections = []
    for step in steps:
        file = step.folder / "history.json"
        if file.is_file():
            history = json.loads(file.read_text(encoding="utf-8"))
            rows = [(name.replace("_", " "), f"{value:,.6g}") for name, value in step.outputs["metrics"].items()]
            sections.append(ReportSection(f"Training: {step.name}", rows, ("figure", "value"), _curve(history)))
    return sections


def _curve(history: Sequence[Mapping[str, Any]], width: int = 720, height: int = 180) -> str:
    """The loss, or the reward where that is what is optimised, by step as an inline SVG."""
    name = "loss" if "loss" in history[0] else "reward"
    values = [float(entry[name]) for entry in history]
    low, high = min(values), max(values)
    span, last = (high - low) or 1.0, max(len(values) - 1, 1)
    points = " ".join(
        f"{40 + (width - 50) * i / last:.1f},{10 + (height - 30) * (high - value) / span:.1f}" for i, value in enumerate(values)
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name} by step">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
        f'<text x="0" y="16" font-size="11" fill="currentColor">{high:.2f}</text>'
        f'<text x="0" y="{height - 20}" font-size="11" fill="currentColor">{low:.2f}</text>'
        f'<text x="40" y="{height - 4}" font-size="11" fill="currentColor">'
        f"{name}, {len(values)} steps</text></svg>"
    )


def _reward_sections(steps: Sequence[StepResult]) -> list[ReportSection]:
    """What each reward model is worth: accuracy by slice, calibration, probes."""
    sections = []
    for step in steps:
        file = step.folder / "evaluation.json"
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            if not found:  # no test pairs: nothing was measured
                continue
            rows: list[tuple[object, ...]] = []
            for name, entry in found["slices"].items():
                accuracy = entry["accuracy"]
                rows.append((name, entry["pairs"], f"{accuracy['value']:.1%} [{accuracy['low']:.1%}, {accuracy['high']:.1%}]"))
            if fit := found.get("calibration"):
                note = f"Temperature {fit['temperature']:.3g} on {fit['fitted_on']} pairs of their own; calibration error "
                note += f"{fit['ece_before']:.3f} before, {fit['ece_after']:.3f} after (a perfect predictor: {fit['ece_by_chance']:.3f})."
            else:
                note = "Not calibrated."
            note = " ".join([note, *found.get("warnings", ())])
            sections.append(ReportSection(f"Reward model: {step.name}", rows, ("slice", "pairs", "accuracy, 95 % interval"), note=note))
    return sections


def _label_sections(steps: Sequence[StepResult]) -> list[ReportSection]:
    """How judgements became pairs, source by source."""
    sections = []
    for step in steps:
        if (step.folder / "labels.json").is_file():
            labels = json.loads((step.folder / "labels.json").read_text(encoding="utf-8"))
            rows = [
                (name, made["comparisons"], made["pairs"], made["soft"], made["method"], made["rubric"], str(made["left_out"] or ""))
                for name, made in ((name, entry["pairs"]) for name, entry in labels.items())
            ]
            head = ("source", "comparisons", "pairs", "soft labels", "method", "rubric", "left out")
            sections.append(ReportSection(f"Labels: {step.name}", rows, head))
    return sections


def _data_sections(steps: Sequence[StepResult]) -> list[ReportSection]:
    sections = []
    for step in steps:
        if (step.folder / "data.json").is_file():
            data = json.loads((step.folder / "data.json").read_text(encoding="utf-8"))
            rows = [(key.replace("_", " "), value) for key, value in data.items() if not isinstance(value, dict)]
            rows += [(f"card: {key}", value) for key, value in data["card"].items() if value]
            sections.append(ReportSection("Training data", rows, ("figure", "value")))
        if (step.folder / "contamination.json").is_file():
            report = json.loads((step.folder / "contamination.json").read_text(encoding="utf-8"))
            hits = [(hit["suite"], hit["case_id"], hit["kind"], f"{hit['overlap']:.0%}", hit["text"]) for hit in report["hits"]]
            note = (
                f"{report['num_records']} training rows against {sum(report['num_cases'].values())} suite cases, "
                f"runs of {report['ngram']} words: "
                f"{len(hits)} cases found; {report['num_sharing']} share some run, {report['num_boilerplate']} runs are boilerplate. "
                f"{report['num_short']} cases are too short for runs; {report['num_prompts']} of them were compared by their prompt alone. "
                f"{step.outputs['duplicates']} duplicate rows were dropped."
            )
            sections.append(ReportSection("Contamination", hits, ("suite", "case", "kind", "overlap", "text"), note=note))
    return sections


def _step_section(steps: Sequence[StepResult]) -> ReportSection:
    rows = [(step.name, step.state, f"{step.seconds:.0f}", step.key[:12]) for step in steps]
    return ReportSection("Steps", rows, ("step", "this time", "seconds", "key"))


def _lineage_section(steps: Sequence[StepResult]) -> ReportSection:
    rows = [(step.name, step.outputs["lineage"]) for step in steps if step.outputs.get("lineage")]
    return ReportSection("Lineage", rows, ("step", "id"), note="posttrain lineage show ID tells what each was made from")
