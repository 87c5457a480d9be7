"""Drills: every failure that can be provoked is provoked, and has to be caught."""

from posttrain.drills import (
    changed_tools,
    chosen_falls,
    consent,
    contaminated,
    guessed,
    injection,
    kl_runaway,
    length_reward,
    masks,
    metric_confusion,
    needless,
    overfitting,
    policy_text,
    reviewers,
    stale_pairs,
    sycophancy,
    template_drift,
    wrong_action,
)
from posttrain.drills.harness import DRILLS, Drill, DrillReport, Found, check_free, drill, drill_lines, run_drill

__all__ = ["DRILLS", "Drill", "DrillReport", "Found", "check_free", "drill", "drill_lines", "run_drill"]
_REGISTERED = (
    changed_tools,
    chosen_falls,
    consent,
    contaminated,
    guessed,
    injection,
    kl_runaway,
    length_reward,
    masks,
    metric_confusion,
    needless,
    overfitting,
    policy_text,
    reviewers,
    stale_pairs,
    sycophancy,
    template_drift,
    wrong_action,
)
