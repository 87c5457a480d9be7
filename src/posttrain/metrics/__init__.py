"""Numbers only: intervals, paired tests, pass@k, calibration."""

from posttrain.metrics.intervals import (
    Interval,
    critical_value,
    design_effect,
    mean_interval,
    percentile_interval,
    proportion_interval,
    wilson,
)
from posttrain.metrics.paired import newcombe_difference, non_inferiority, paired_difference
from posttrain.metrics.ratios import PrecisionRecall, expected_calibration_error, pass_at_k, precision_recall

__all__ = [
    "Interval",
    "PrecisionRecall",
    "critical_value",
    "design_effect",
    "expected_calibration_error",
    "mean_interval",
    "newcombe_difference",
    "non_inferiority",
    "paired_difference",
    "pass_at_k",
    "percentile_interval",
    "precision_recall",
    "proportion_interval",
    "wilson",
]
