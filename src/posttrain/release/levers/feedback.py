"""Rules on who judged, and on the reward model that learned from it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from posttrain.release.levers.catalogue import Figure, Seen, rule
from posttrain.release.levers.evidence import Evidence, Source, needed

BY_LENGTH = 0.7  # of the decided labels that a rule sees right which looks at length alone
MIN_PAIRS = 30  # below it an interval that holds one half says nothing of the reward model
LOW_AGREEMENT = 0.4  # Krippendorff's alpha; .667 is the usual floor for tentative conclusions, below .4 is little more than chance


@rule(
    "uncalibrated-reviewers",
    "data",
    "a reviewer judges otherwise than the rest",
    lever="train the reviewer on gold tasks, adjudicate what they judged, and weight labels by reliability (dawid_skene)",
    not_yet="a majority vote over everything, or a reward model on these labels",
)
def uncalibrated_reviewers(evidence: Evidence) -> Iterator[Seen]:
    """The label report's own tests single someone out."""
    tested = [
        (source, one)
        for source, report in evidence.labels()
        for one in report["annotators"]
        if one["findings"] or one["agreement"] is not None or one["gold"]
    ]
    for source, annotator in needed(tested, "reviewers who share comparisons or gold tasks with others"):
        if annotator["findings"]:
            tests = [
                f"{one['test']} {one['value']:.2f}, expected {one['expected']:.2f}, p = {one['p']:.1g}" for one in annotator["findings"]
            ]
            figures = tuple(Figure(source.name, f"{annotator['name']}, {one['test']}", one["value"]) for one in annotator["findings"])
            yield Seen(f"{annotator['name']} ({annotator['labels']} labels): {'; '.join(tests)}", figures)


@rule(
    "labels-disagree",
    "data",
    "the reviewers do not agree with one another",
    lever="sharpen the rubric with examples, then label again; keep the disagreement as soft labels meanwhile",
    not_yet="more labels under the same rubric",
)
def labels_disagree(evidence: Evidence) -> Iterator[Seen]:
    """Krippendorff's alpha below .4 for certain."""
    found = [(source, report["alpha"]) for source, report in evidence.labels() if report["alpha"]]
    for source, alpha in needed(found, "comparisons that several reviewers judged"):
        if alpha["high"] is not None and alpha["high"] < LOW_AGREEMENT:
            text = f"Krippendorff's alpha is {alpha['value']:.2f} [{alpha['low']:.2f}, {alpha['high']:.2f}]"
            yield Seen(text, (Figure(source.name, "alpha", alpha["value"]),))


@rule(
    "labels-by-length",
    "data",
    "length alone decides the labels",
    lever="pairs of equal length, a rubric that says length is no virtue, length as a guardrail",
    not_yet="a reward model on these pairs: it would learn to count",
)
def labels_by_length(evidence: Evidence) -> Iterator[Seen]:
    """A rule that sees nothing but length gets most labels right, for certain."""
    found = [(source, report["effects"]["by_length_alone"]) for source, report in evidence.labels()]
    for source, alone in needed([one for one in found if one[1]], "labels over answers of different length"):
        if alone["low"] is not None and alone["low"] > BY_LENGTH:
            text = f"{alone['value']:.0%} of the decided labels follow length alone [{alone['low']:.0%}, {alone['high']:.0%}]"
            yield Seen(text, (Figure(source.name, "by_length_alone", alone["value"]),))


# ---- reward models ---------------------------------------------------------------------------------------------------------


def _reward_models(evidence: Evidence) -> Sequence[Source]:
    found = [source for source in evidence.all("evaluation.json") if source.data.get("slices")]
    return needed(found, "a reward model that was evaluated on held-out pairs")


def _gamed(evidence: Evidence, probe: str) -> Iterator[Seen]:
    found = [(source, one) for source in _reward_models(evidence) for one in source.data["probes"] if one["name"] == probe]
    for source, one in needed(found, f"a reward model with a {probe} probe"):
        if one["verdict"] == "gamed":
            shift = one["shift"]
            text = f"the reward moves by {shift['value']:+.2f} standard deviations [{shift['low']:+.2f}, {shift['high']:+.2f}]"
            yield Seen(f"{text} when nothing else changes", (Figure(source.name, f"{probe} probe", shift["value"]),))


@rule(
    "reward-loves-length",
    "reward",
    "the reward model pays for length",
    lever="length-balanced pairs, padded answers as rejected ones, a length-corrected reward",
    not_yet="optimising against it",
)
def reward_loves_length(evidence: Evidence) -> Iterator[Seen]:
    """Sentences that say nothing raise the reward."""
    yield from _gamed(evidence, "length")


@rule(
    "reward-loves-flattery",
    "reward",
    "the reward model pays for flattery",
    lever="truthfulness, calibration and expressed uncertainty in the rubric, and pairs whose flattering side is the worse one",
    not_yet="optimising against it, or reading a preference win rate as quality",
)
def reward_loves_flattery(evidence: Evidence) -> Iterator[Seen]:
    """Praise of the reader raises the reward."""
    yield from _gamed(evidence, "flattery")


@rule(
    "reward-loves-markdown",
    "reward",
    "the reward model pays for formatting",
    lever="pairs that differ in content and not in form, decorated answers as rejected ones",
    not_yet="optimising against it",
)
def reward_loves_markdown(evidence: Evidence) -> Iterator[Seen]:
    """The same words as bullets raise the reward."""
    yield from _gamed(evidence, "markdown")


@rule(
    "reward-depends-on-packing",
    "reward",
    "the reward of an answer depends on what it is packed with",
    lever="score in float32, one answer at a time, and compare: a shift that stays is a leak between texts, to be mended in the mask",
    not_yet="reading any other figure of this reward model, or optimising against it",
)
def reward_depends_on_packing(evidence: Evidence) -> Iterator[Seen]:
    """The same answer behind another one to its prompt gets another reward, either way."""
    yield from _gamed(evidence, "position")


def _accuracies(evidence: Evidence, enough: Callable[[Mapping[str, Any]], bool], what: str) -> Iterator[tuple[Mapping[str, Any], Seen]]:
    """(accuracy, how it is told) of the slices that hold enough pairs for a rule."""
    slices = [
        (source, name, entry)
        for source in _reward_models(evidence)
        for name, entry in source.data["slices"].items()
        if entry["accuracy"]["low"] is not None and enough(entry)
    ]
    for source, name, entry in needed(slices, what):
        accuracy = entry["accuracy"]
        text = f"'{name}': {accuracy['value']:.0%} of {entry['pairs']} pairs [{accuracy['low']:.0%}, {accuracy['high']:.0%}]"
        yield accuracy, Seen(text, (Figure(source.name, f"{name} accuracy", accuracy["value"]),))


@rule(
    "reward-by-chance",
    "reward",
    "the reward model does not tell better from worse",
    lever="read the label report, then more and clearer pairs of the weak slice",
    not_yet="PPO: a reward by chance is noise to be gamed",
)
def reward_by_chance(evidence: Evidence) -> Iterator[Seen]:
    """Accuracy on held-out pairs is at most one half for certain, overall or in a slice."""
    for accuracy, seen in _accuracies(evidence, lambda entry: True, "a reward model's accuracy on held-out pairs"):
        if accuracy["high"] <= 0.5:
            yield seen


@rule(
    "reward-not-shown",
    "reward",
    "the reward model is not shown to be better than chance",
    lever="more held-out pairs of the slice; where it stays open, the label report",
    not_yet="PPO against it, and just as little giving the model up",
)
def reward_not_shown(evidence: Evidence) -> Iterator[Seen]:
    """The interval of the accuracy holds one half, over 30 pairs or more; fewer show nothing either way."""
    what = f"a reward model's accuracy on {MIN_PAIRS} held-out pairs"
    for accuracy, seen in _accuracies(evidence, lambda entry: bool(entry["pairs"] >= MIN_PAIRS), what):
        if accuracy["low"] <= 0.5 < accuracy["high"]:
            yield seen


@rule(
    "reward-miscalibrated",
    "reward",
    "the reward model's probabilities are not what happens",
    lever="fit the temperature on pairs like the ones it will judge; soft labels in its training",
    not_yet="thresholds on its scores, or soft labels made by it",
)
def reward_miscalibrated(evidence: Evidence) -> Iterator[Seen]:
    """The calibration error after the temperature is beyond what a perfect predictor shows by chance, and above five points."""
    calibrated = [(source, source.data["calibration"]) for source in _reward_models(evidence) if source.data["calibration"]]
    for source, found in needed(calibrated, "a calibrated reward model"):
        if found["ece_after"] > max(0.05, found["ece_by_chance_95"]):
            text = f"calibration error {found['ece_after']:.3f}, by chance at most {found['ece_by_chance_95']:.3f}"
            yield Seen(text, (Figure(source.name, "ece_after", found["ece_after"]),))
