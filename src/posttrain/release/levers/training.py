"""Rules on the curves of training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from posttrain.release.levers.catalogue import Figure, Seen, rule
from posttrain.release.levers.evidence import Evidence, Source


@rule(
    "loss-does-not-fall",
    "training",
    "the model does not learn",
    lever="look at the supervised tokens of a row and at the chat template, then at the learning rate",
    not_yet="more data or another method",
)
def loss_does_not_fall(evidence: Evidence) -> Iterator[Seen]:
    """The last quarter of the steps has no lower loss than the first."""
    for training in evidence.trainings("loss"):
        change = training.change("loss")
        if change.high >= 0 and change.value > -0.01 * abs(training.curve("loss")[0]):
            text = f"the loss went from {training.curve('loss')[0]:.3g} to {training.curve('loss')[-1]:.3g}"
            yield Seen(text, (Figure(training.source, "loss, last quarter less first", change.value),))


@rule(
    "pairs-teach-nothing",
    "training",
    "the preferences do not separate",
    lever="read the label report: are the pairs agreed on, and decided by anything but length? Then the learning rate",
    not_yet="a reward model and PPO: they would learn from the same labels",
)
def pairs_teach_nothing(evidence: Evidence) -> Iterator[Seen]:
    """Accuracy over the last quarter of training is below 60 % for certain, and not above one half."""
    for training in evidence.trainings("rewards/accuracy"):
        accuracy = training.last_quarter("rewards/accuracy")
        if accuracy.low <= 0.5 and accuracy.high < 0.6:
            text = f"{accuracy.value:.0%} of the pairs are ranked right at the end [{accuracy.low:.0%}, {accuracy.high:.0%}]"
            yield Seen(text, (Figure(training.source, "rewards/accuracy, last quarter", accuracy.value),))


# ---- what a stage's own watch named ----------------------------------------------------------------------------------------


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    """Did a stage's watch measure all of these figures?"""
    return lambda result: any(all(f"watch/{name}" in entry.get("evaluations", {}) for name in names) for entry in result.get("history", ()))


def _warned(stages: Sequence[Source], name: str) -> Iterator[Seen]:
    """The warnings of that name in the results of stages that measured what it rests on."""
    for source in stages:
        for warning in source.data["warnings"]:
            if warning["name"] == name:
                figures = tuple(Figure(source.name, key, value) for key, value in warning["figures"].items())
                yield Seen(f"step {warning['step']}: {warning['message'].removeprefix(name + ': ')}", figures)


@rule(
    "chosen-falls",
    "training",
    "the chosen answers become less likely",
    lever="a larger beta, a smaller learning rate or fewer steps; or an objective that holds the chosen answer (orpo, or sft on it beside)",
    not_yet="celebrating the margin: it grows while both answers sink, and the likelihood goes to something else",
)
def chosen_falls(evidence: Evidence) -> Iterator[Seen]:
    """The watch saw the chosen answers fall below where they began."""
    stages = evidence.stages(_has("chosen_change"), "a preference stage that watched the chosen answers")
    yield from _warned(stages, "chosen likelihood falling")


@rule(
    "preference-overfitting",
    "training",
    "the pairs are learned by heart",
    lever="fewer epochs, a larger beta or ipo, and more varied pairs; stop where held-out accuracy stops",
    not_yet="reading the accuracy on training pairs, or training longer",
)
def preference_overfitting(evidence: Evidence) -> Iterator[Seen]:
    """The watch saw training pairs ranked far better than held-out ones."""
    stages = evidence.stages(_has("accuracy", "held_out_accuracy"), "a preference stage that watched training pairs and held-out ones")
    yield from _warned(stages, "preference overfitting")


@rule(
    "stale-pairs",
    "data",
    "the pairs are not what this model would write",
    lever="collect pairs from this model's own answers, or fine-tune on the chosen answers first",
    not_yet="a larger learning rate, or more passes over the old pairs",
)
def stale_pairs(evidence: Evidence) -> Iterator[Seen]:
    """The watch found the pairs far less likely than the policy's own samples before the first update."""
    stages = evidence.stages(lambda result: bool(result.get("start")), "a preference stage that compared its pairs with its own samples")
    yield from _warned(stages, "stale, off-policy pairs")


@rule(
    "kl-runaway",
    "training",
    "the model runs away from its reference",
    lever="a larger beta or KL coefficient, a smaller learning rate, and the KL budget as the stop",
    not_yet="training on because the reward still rises",
)
def kl_runaway(evidence: Evidence) -> Iterator[Seen]:
    """A watch saw the KL pass its limit, or PPO was stopped by its KL budget."""

    def is_budgeted(result: Mapping[str, Any]) -> bool:
        return "stopped" in result and result["settings"].get("kl_budget") is not None

    measured = _has("kl")
    for source in evidence.stages(lambda r: measured(r) or is_budgeted(r), "a stage that watched its KL, or one with a KL budget"):
        if is_budgeted(source.data) and source.data["stopped"].startswith("KL budget"):
            kl = source.data["metrics"].get("last_kl", source.data["history"][-1]["kl"])
            yield Seen(source.data["stopped"], (Figure(source.name, "kl", kl),))
        elif measured(source.data):
            yield from _warned([source], "KL runaway")


@rule(
    "rewards-parted",
    "reward",
    "the reward rises and the held-out reward falls",
    lever="read the answers side by side, then mend the reward model: what it pays for is not what the held-out one sees",
    not_yet="more updates against it, or dropping the held-out reward because it disagrees",
)
def rewards_parted(evidence: Evidence) -> Iterator[Seen]:
    """PPO was stopped because the two reward models parted."""
    what = "a PPO run with a held-out reward model"
    for source in evidence.stages(lambda result: "held_out_reward_gain" in result.get("metrics", {}), what):
        if "held-out reward fell" in source.data["stopped"]:
            last = source.data["history"][-1]
            figures = tuple(Figure(source.name, name, last[name]) for name in ("reward", "held_out_reward"))
            yield Seen(source.data["stopped"], figures)
