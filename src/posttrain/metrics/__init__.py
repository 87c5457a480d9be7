"""Numbers only: intervals, paired tests, pass@k, calibration."""

from posttrain.metrics.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha, percent_agreement
from posttrain.metrics.bfcl import Verdict, check_call, check_calls
from posttrain.metrics.bradley_terry import BradleyTerry, bradley_terry
from posttrain.metrics.calibration import (
    ReliabilityBin,
    Temperature,
    calibration_error_by_chance,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)
from posttrain.metrics.correlation import rank_correlation
from posttrain.metrics.dawid_skene import DawidSkene, dawid_skene
from posttrain.metrics.grounding import Evidence, GroundedClaim, Judge, ground_claim
from posttrain.metrics.intervals import (
    Interval,
    critical_value,
    design_effect,
    mean_interval,
    percentile_interval,
    proportion_interval,
    wilson,
)
from posttrain.metrics.numbers import FoundNumber, find_codes, find_numbers, number_in
from posttrain.metrics.paired import newcombe_difference, non_inferiority, paired_difference, ratio_difference
from posttrain.metrics.ratios import PrecisionRecall, pass_at_k, precision_recall
from posttrain.metrics.tool_calls import CallMatch, match_calls, results_used, signature_problem

__all__ = [
    "BradleyTerry",
    "CallMatch",
    "DawidSkene",
    "Evidence",
    "FoundNumber",
    "GroundedClaim",
    "Interval",
    "Judge",
    "PrecisionRecall",
    "ReliabilityBin",
    "Temperature",
    "Verdict",
    "bradley_terry",
    "calibration_error_by_chance",
    "check_call",
    "check_calls",
    "cohen_kappa",
    "critical_value",
    "dawid_skene",
    "design_effect",
    "expected_calibration_error",
    "find_codes",
    "find_numbers",
    "fit_temperature",
    "fleiss_kappa",
    "ground_claim",
    "krippendorff_alpha",
    "match_calls",
    "mean_interval",
    "newcombe_difference",
    "non_inferiority",
    "number_in",
    "paired_difference",
    "pass_at_k",
    "percent_agreement",
    "percentile_interval",
    "precision_recall",
    "proportion_interval",
    "rank_correlation",
    "ratio_difference",
    "reliability_bins",
    "results_used",
    "signature_problem",
    "wilson",
]
