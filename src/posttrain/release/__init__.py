"""Release: a gate's criteria, the verdict on a candidate, its reports. Never runs a model."""

from posttrain.release.gate import (
    Criterion,
    Gate,
    GateConfig,
    GoodSample,
    GuardrailMetric,
    NonInferiority,
    Prices,
    Requirement,
    TargetMetric,
    TwoMetricConfig,
    freeze_gate,
    gate_changes,
    is_gate,
    load_gate,
    read_gate,
)
from posttrain.release.judge import judge
from posttrain.release.junit import write_junit
from posttrain.release.report import ReportSection, write_report
from posttrain.release.reward_evidence import REWARD_MODELS_FILE
from posttrain.release.substance import substance_check
from posttrain.release.two_metrics import Change, Reading, TwoMetricReading, read_changes, read_two_metrics
from posttrain.release.verdict import Check, Comparison, SampleChange, Verdict, verdict_lines

__all__ = [
    "REWARD_MODELS_FILE",
    "Change",
    "Check",
    "Comparison",
    "Criterion",
    "Gate",
    "GateConfig",
    "GoodSample",
    "GuardrailMetric",
    "NonInferiority",
    "Prices",
    "Reading",
    "ReportSection",
    "Requirement",
    "SampleChange",
    "TargetMetric",
    "TwoMetricConfig",
    "TwoMetricReading",
    "Verdict",
    "freeze_gate",
    "gate_changes",
    "is_gate",
    "judge",
    "load_gate",
    "read_changes",
    "read_gate",
    "read_two_metrics",
    "substance_check",
    "verdict_lines",
    "write_junit",
    "write_report",
]
