"""Rules on what the candidate does: its evaluation, alone and against the version in service."""

from collections.abc import Iterator, Mapping
from typing import Any

from posttrain.metrics import wilson
from posttrain.release.levers.catalogue import Figure, Seen, rule
from posttrain.release.levers.evidence import Evidence, needed

FORMAT_FLOOR = 0.95  # share of valid outputs a downstream system can live with
RIGHT = ("exact", "answer", "numeric")
"""Scorers that tell whether an answer is right."""
GROUNDED_FLOOR = 0.8
CUT = 0.05  # share of answers cut at the token limit
LONGER = 0.2  # growth of answers that asks for a reason
LUCK = 0.2  # pass@k beyond pass@1
MIN_PAIRS = 30  # below it an interval that holds one half says nothing of the model


def _rate(value: Mapping[str, Any]) -> str:
    return f"{value['value']:.1%} [{value['low']:.1%}, {value['high']:.1%}]"


@rule(
    "format-unstable",
    "behaviour",
    "the output format is unstable",
    lever="sft on the exact format, the chat template, the completion-only mask",
    not_yet="a more complex preference optimisation",
)
def format_unstable(evidence: Evidence) -> Iterator[Seen]:
    """Valid outputs below 95 % for certain."""
    for source, name, rate in evidence.scores("json_schema"):
        if rate["high"] is not None and rate["high"] < FORMAT_FLOOR:
            yield Seen(f"'{name}' holds for {_rate(rate)} of the answers", (Figure(source.name, name, rate["value"]),))


@rule(
    "valid-but-wrong",
    "behaviour",
    "the form is right and the content is not",
    lever="keep form and meaning apart in data and metrics: add rows that are well-formed but wrong, and check arguments and state",
    not_yet="counting schema-valid as success, or more format training",
)
def valid_but_wrong(evidence: Evidence) -> Iterator[Seen]:
    """Valid for nearly all answers, right for certainly fewer."""
    forms = [(source.name, name, rate) for source, name, rate in evidence.scores("json_schema") if (rate["low"] or 0) >= 0.9]
    found = [(*form, name, rate) for source, name, rate in evidence.scores(*RIGHT) for form in forms if form[0] == source.name]
    for place, form, valid, name, rate in found:
        if rate["high"] is not None and valid["low"] - rate["high"] > 0.1:
            figures = (Figure(place, form, valid["value"]), Figure(place, name, rate["value"]))
            yield Seen(f"'{form}' {_rate(valid)}, '{name}' {_rate(rate)}", figures)


def _preferences(evidence: Evidence) -> Iterator[tuple[Mapping[str, Any], Seen]]:
    """(share, how it is told) of the held-out pairs whose better answer is the likelier one."""
    found = [one for one in evidence.scores("likelihood") if one[2]["kind"] == "pass" and one[2]["high"] is not None]
    for source, name, rate in needed(found, "an evaluation on pairs of answers"):
        text = f"the better answer is the likelier one in {_rate(rate)} of the held-out pairs"
        yield rate, Seen(text, (Figure(source.name, name, rate["value"]),))


@rule(
    "not-preferred",
    "behaviour",
    "both answers are acceptable, and the model does not lean to the better one",
    lever="preference data, then dpo or orpo",
    not_yet="taking a preference win rate for factual accuracy",
)
def not_preferred(evidence: Evidence) -> Iterator[Seen]:
    """Held-out pairs: the better answer is the likelier one in at most half of them, for certain."""
    for rate, seen in _preferences(evidence):
        if rate["high"] <= 0.5:
            yield seen


@rule(
    "preference-not-shown",
    "behaviour",
    "the model is not shown to lean to the better answer",
    lever="more held-out pairs; where it stays open, more and clearer preference data",
    not_yet="a larger learning rate, or a verdict on the model either way",
)
def preference_not_shown(evidence: Evidence) -> Iterator[Seen]:
    """Held-out pairs, 30 or more: the interval of the share in which the better answer is the likelier one holds one half."""
    for rate, seen in needed([one for one in _preferences(evidence) if one[0]["num_scored"] >= MIN_PAIRS], f"{MIN_PAIRS} held-out pairs"):
        if rate["low"] <= 0.5 < rate["high"]:
            yield seen


@rule(
    "not-grounded",
    "behaviour",
    "it answers without evidence",
    lever="tool trajectories, citations, and an answer without evidence counted as a failure; a schema, a validator, constrained decoding",
    not_yet="repeating the instruction in the prompt, or counting tool calls",
)
def not_grounded(evidence: Evidence) -> Iterator[Seen]:
    """Answers backed by the case's evidence below 80 % for certain."""
    for source, name, rate in evidence.scores("evidence"):
        if rate["high"] is not None and rate["high"] < GROUNDED_FLOOR:
            yield Seen(f"'{name}' is {_rate(rate)}", (Figure(source.name, name, rate["value"]),))


@rule(
    "over-refusal",
    "behaviour",
    "it refuses what it should answer",
    lever="rebalance the safety data: add rows that look sensitive and are safe, and a label for 'answerable with constraints'",
    not_yet="judging by the total share of refusals, or weighting safety up further",
)
def over_refusal(evidence: Evidence) -> Iterator[Seen]:
    """Fewer of the answerable cases are answered than by the version in service, for certain."""
    names = {name for _, name, _ in evidence.scores("refusal", suffix="_answered")}
    rows = [(source, row) for source, row in evidence.comparisons() if row["metric"] in names and not row["slice"]]
    for source, row in needed(rows, "a verdict that compares the answered cases"):
        if row["difference"]["high"] < 0:
            text = f"'{row['metric']}' went from {row['baseline']['value']:.1%} to {row['candidate']['value']:.1%}"
            yield Seen(text, (Figure(source.name, f"{row['metric']}, difference", row["difference"]["value"]),))


@rule(
    "one-for-another",
    "behaviour",
    "one ability was bought with another",
    lever="read the suite by kind of task, and give the kind that lost its own objective or its own data",
    not_yet="one preference objective over all tasks, or an average of the two",
)
def one_for_another(evidence: Evidence) -> Iterator[Seen]:
    """The same score rose in one slice and fell in another, both for certain at twice the usual confidence margin."""
    slices: dict[tuple[str, str], dict[str, list[str]]] = {}
    rows = [(source, row) for source, row in evidence.comparisons() if row["slice"] and row["candidate"]["kind"] != "amount"]
    for source, row in needed(rows, "a verdict that compares slices"):
        difference = row["difference"]
        reach = difference["high"] - difference["low"]
        moved = slices.setdefault((source.name, row["metric"]), {"rose": [], "fell": []})
        if difference["value"] > reach:
            moved["rose"].append(row["slice"])
        elif difference["value"] < -reach:
            moved["fell"].append(row["slice"])
    for (file, metric), moved in slices.items():
        if moved["rose"] and moved["fell"]:
            rose, fell = (" and ".join(moved[way]) for way in ("rose", "fell"))
            yield Seen(
                f"'{metric}' rose in {rose} and fell in {fell}", (Figure(file, f"{metric} rose in", rose), Figure(file, "fell in", fell))
            )


@rule(
    "longer-not-better",
    "behaviour",
    "longer answers, not more correct ones",
    lever="length as a guardrail, a length-normalised objective (simpo) or length-balanced pairs; shorter targets in sft",
    not_yet="taking a longer chain of thought for better reasoning",
)
def longer_not_better(evidence: Evidence) -> Iterator[Seen]:
    """Mean answer length on the suite grew by more than a fifth from the baseline's, and no score of rightness rose for certain.

    The growth is that of these answers, on the same cases; a summary holds no interval for it.
    """
    both = [versions for versions in evidence.versions() if versions.baseline]
    needed(both, "evaluations of candidate and baseline on one suite")
    rows = [row for _, row in evidence.comparisons() if not row["slice"] and row["candidate"]["kind"] != "amount"]
    if any(row["difference"]["low"] > 0 for row in needed(rows, "a verdict with scores of rightness")):
        return
    for versions in both:
        assert versions.baseline is not None
        sources = (versions.baseline, versions.candidate)
        before, after = (source.data["tokens"]["completion"]["mean"] for source in sources)
        if before > 0 and after / before > 1 + LONGER:
            figures = tuple(Figure(source.name, "mean answer tokens", mean) for source, mean in zip(sources, (before, after), strict=True))
            yield Seen(f"these answers grew from {before:.1f} to {after:.1f} tokens on average, and no score rose for certain", figures)


@rule(
    "cut-answers",
    "behaviour",
    "answers do not end",
    lever="supervise the end-of-turn token (posttrain check shows it), or raise the suite's token limit",
    not_yet="judging the quality of answers that were cut",
)
def cut_answers(evidence: Evidence) -> Iterator[Seen]:
    """More than one in twenty answers is cut at the token limit, for certain (Wilson's interval over samples)."""
    for source in evidence.candidates():
        cut, n = source.data["finish_reasons"].get("length", 0), source.data["num_samples"]
        low, high = wilson(cut, n)
        if low > CUT:
            text = f"{cut / n:.0%} of the answers were cut at the token limit [{low:.0%}, {high:.0%}]"
            yield Seen(text, (Figure(source.name, "cut", cut / n),))


@rule(
    "lucky-not-reliable",
    "behaviour",
    "it can, but seldom does",
    lever="a verifier with a process reward, search, or a self-training loop on what the verifier accepts",
    not_yet="a longer chain of thought, or a larger model",
)
def lucky_not_reliable(evidence: Evidence) -> Iterator[Seen]:
    """pass@k, as measured, is far above all that the interval of a single answer's passes allows."""
    sampled = [(source, name, entry) for source in evidence.candidates() for name, entry in source.data["scores"].items()]
    for source, name, entry in needed([one for one in sampled if one[2]["pass_at_k"]], "an evaluation with several samples a case"):
        at, rate = entry["pass_at_k"], entry["overall"]
        best = max(at, key=int)
        if rate["high"] is not None and at[best] - rate["high"] > LUCK:
            figures = (Figure(source.name, f"{name}, pass@1", rate["value"]), Figure(source.name, f"{name}, pass@{best}", at[best]))
            yield Seen(f"'{name}': of single answers {_rate(rate)} pass; at least one of {best} in {at[best]:.0%} of these cases", figures)


# ---- at the gate -----------------------------------------------------------------------------------------------------------


def _reading(evidence: Evidence, verdict: str) -> Iterator[Seen]:
    read = [(source, source.data["two_metric"]) for source in evidence.all("verdict.json") if source.data.get("two_metric")]
    for source, reading in needed(read, "a verdict with a two-metric reading"):
        if reading["overall"]["verdict"] == verdict:
            figures = [one for one in reading["overall"]["figures"] if one["state"] in ("gained", "worse", "broken", "no gain")]
            shown = ", ".join(f"{row['case']}#{row['sample']}" for row in reading["rows"][:4])
            text = reading["overall"]["reason"] + (f" (see {shown})" if shown else "")
            yield Seen(text, tuple(Figure(source.name, f"{one['metric']} {one['state']}", one["value"]) for one in figures))


@rule(
    "reward-gaming",
    "reward",
    "the reward is being gamed",
    lever="read the rows, then mend the reward: truthfulness and uncertainty in the rubric, counterexamples, a held-out reward, length "
    "correction; a larger beta meanwhile",
    not_yet="more optimisation against the same reward, or believing its curve",
)
def reward_gaming(evidence: Evidence) -> Iterator[Seen]:
    """The two-metric reading of the gate says so."""
    yield from _reading(evidence, "reward gaming")


@rule(
    "pointless-drift",
    "training",
    "the model moves away and gains nothing",
    lever="a larger beta or KL coefficient, a smaller learning rate, an early stop at the KL budget",
    not_yet="more steps of the same",
)
def pointless_drift(evidence: Evidence) -> Iterator[Seen]:
    """The two-metric reading of the gate says so."""
    yield from _reading(evidence, "pointless drift")


@rule(
    "regression",
    "release",
    "the target got worse",
    lever="roll back; then compare data, template and settings of the two versions (posttrain lineage diff)",
    not_yet="mending it by more training on top",
)
def regression(evidence: Evidence) -> Iterator[Seen]:
    """The two-metric reading of the gate says so."""
    yield from _reading(evidence, "regression")


@rule(
    "too-slow-or-dear",
    "release",
    "too slow or too dear to ship",
    lever="distillation, with regression tests aimed at safety, format and the long tail",
    not_yet="shipping the student on an overall benchmark",
)
def too_slow_or_dear(evidence: Evidence) -> Iterator[Seen]:
    """A limit on latency, cost or tokens is missed for certain."""
    checks = [
        (source, check)
        for source in evidence.all("verdict.json")
        for check in source.data["checks"]
        if check["kind"] == "threshold" and check["metric"] in ("latency_seconds", "cost", "prompt_tokens", "completion_tokens")
    ]
    for source, check in needed(checks, "a gate with a limit on latency, cost or tokens"):
        if check["outcome"] == "block":
            text = f"{check['metric']}: {check['reason']}, required {check['required']}"
            yield Seen(text, (Figure(source.name, check["metric"], check["value"]),))
