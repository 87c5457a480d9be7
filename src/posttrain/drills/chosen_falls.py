"""20: the margin grows while the chosen answers themselves become less likely."""

from pathlib import Path

from posttrain.drills.harness import Found, drill
from posttrain.drills.yes_no import good_pairs, prefer, read_run, start_model


@drill(
    "chosen-likelihood-falls",
    number=20,
    fault="dpo with seventy-five times the learning rate",
    expects=r"the chosen answers become less likely: .*have lost [\d.]+ nats a token",
)
def chosen_likelihood_falls(folder: Path, faulty: bool) -> Found:
    """The stage's watch scores the chosen answers before the first update and while it trains."""
    prefer(folder, start_model(folder), good_pairs(148, 32), good_pairs(200, 32), training={"learning_rate": 3e-2 if faulty else 4e-4})
    return read_run(folder, "watch/chosen_change_per_token", "watch/margin")
