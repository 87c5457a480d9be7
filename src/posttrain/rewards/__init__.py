"""Reward models: scoring, calibration, evaluation by slice, probes, ensembles."""

from posttrain.rewards.ensemble import Disagreement, RewardEnsemble
from posttrain.rewards.evaluation import RewardEvaluation, evaluate_pairs, fit_calibration, fitting_pairs
from posttrain.rewards.model import CALIBRATION_FILE, Calibration, RewardModel
from posttrain.rewards.probes import ProbeResult, run_probes
from posttrain.rewards.report import report_lines, write_reward_report

__all__ = [
    "CALIBRATION_FILE",
    "Calibration",
    "Disagreement",
    "ProbeResult",
    "RewardEnsemble",
    "RewardEvaluation",
    "RewardModel",
    "evaluate_pairs",
    "fit_calibration",
    "fitting_pairs",
    "report_lines",
    "run_probes",
    "write_reward_report",
]
