"""Drills: every failure that can be provoked is provoked, and has to be caught."""

from posttrain.drills import (
    chosen_falls,
    consent,
    contaminated,
    kl_runaway,
    length_reward,
    masks,
    overfitting,
    policy_text,
    reviewers,
    stale_pairs,
    sycophancy,
    template_drift,
)
from posttrain.drills.harness import DRILLS, Drill, DrillReport, Found, check_free, drill, drill_lines, run_drill

__all__ = ["DRILLS", "Drill", "DrillReport", "Found", "check_free", "drill", "drill_lines", "run_drill"]
_REGISTERED = (
    chosen_falls,
    consent,
    contaminated,
    kl_runaway,
    length_reward,
    masks,
    overfitting,
    policy_text,
    reviewers,
    stale_pairs,
    sycophancy,
    template_drift,
)
