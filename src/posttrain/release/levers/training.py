"""Rules on the curves of training."""

from collections.abc import Iterator

from posttrain.release.levers.catalogue import Figure, Seen, rule
from posttrain.release.levers.evidence import Evidence, Training

GAP = 0.15  # accuracy on training pairs beyond held-out ones
DONE = 0.9  # training accuracy from which pairs are learned by heart when held-out ones are not


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
        if change and change.high >= 0 and change.value > -0.01 * abs(training.curve("loss")[0]):
            text = f"the loss went from {training.curve('loss')[0]:.3g} to {training.curve('loss')[-1]:.3g}"
            yield Seen(text, (Figure(training.source, "loss, last quarter less first", change.value),))


@rule(
    "chosen-falls",
    "training",
    "the chosen answers become less likely",
    lever="a larger beta, a smaller learning rate or fewer steps; or an objective that holds the chosen answer (orpo, or sft on it beside)",
    not_yet="celebrating the margin: it grows while both answers sink, and the likelihood goes to something else",
)
def chosen_falls(evidence: Evidence) -> Iterator[Seen]:
    """The chosen answers end below the reference (or, without one, below where they began) for certain, while the margin grows."""
    for training in evidence.trainings("rewards/chosen"):
        name = "rewards/chosen" if _has_reference(training) else "logps/chosen"
        found = training.last_quarter(name) if _has_reference(training) else training.change(name)
        margin = training.last_quarter("rewards/margin")
        if found and margin and found.high < 0 < margin.value:
            beta = _beta(training) if name == "rewards/chosen" else 1.0
            where = "below the reference" if name == "rewards/chosen" else "below their start"
            text = f"chosen answers end {-found.value / beta:.3g} nats {where} [{-found.high / beta:.3g}, {-found.low / beta:.3g}]"
            figures = (
                Figure(training.source, f"{name}, last quarter", found.value),
                Figure(training.source, "rewards/margin", margin.value),
            )
            yield Seen(f"{text}, while the margin is {margin.value:.3g}", figures)


def _has_reference(training: Training) -> bool:
    """Rewards that begin at zero are measured from a reference."""
    return abs(training.curve("rewards/chosen")[0]) < 1e-3


def _beta(training: Training) -> float:
    objective = training.settings.get("objective")
    return float(objective.get("beta", 1.0)) if isinstance(objective, dict) else 1.0


@rule(
    "preference-overfitting",
    "training",
    "the pairs are learned by heart",
    lever="fewer epochs, a larger beta or ipo, and more varied pairs; stop where held-out accuracy stops",
    not_yet="reading the accuracy on training pairs, or training longer",
)
def preference_overfitting(evidence: Evidence) -> Iterator[Seen]:
    """Training pairs are ranked far better than held-out ones of the evaluation (the interval of the latter included)."""
    trainings = evidence.trainings("rewards/accuracy")
    for source, name, rate in evidence.scores("likelihood"):
        if rate["kind"] != "pass" or rate["high"] is None:
            continue
        for training in trainings:
            learned = training.last_quarter("rewards/accuracy")
            if learned and learned.value >= DONE and learned.value - rate["high"] > GAP:
                text = f"{learned.value:.0%} of the training pairs are ranked right, {rate['value']:.0%} of the held-out ones"
                text += f" [{rate['low']:.0%}, {rate['high']:.0%}]"
                figures = (
                    Figure(training.source, "rewards/accuracy, last quarter", learned.value),
                    Figure(source.name, name, rate["value"]),
                )
                yield Seen(text, figures)


@rule(
    "pairs-teach-nothing",
    "training",
    "the preferences do not separate",
    lever="read the label report: are the pairs agreed on, and decided by anything but length? Then the learning rate",
    not_yet="a reward model and PPO: they would learn from the same labels",
)
def pairs_teach_nothing(evidence: Evidence) -> Iterator[Seen]:
    """Accuracy over the last quarter of training is not above one half for certain."""
    for training in evidence.trainings("rewards/accuracy"):
        accuracy = training.last_quarter("rewards/accuracy")
        if accuracy and accuracy.low <= 0.5 and accuracy.value < 0.6:
            text = f"{accuracy.value:.0%} of the pairs are ranked right at the end [{accuracy.low:.0%}, {accuracy.high:.0%}]"
            yield Seen(text, (Figure(training.source, "rewards/accuracy, last quarter", accuracy.value),))
