"""Release: a gate's criteria, the verdict on a candidate, its reports. Never runs a model."""

from posttrain.release.gate import (
    Criterion,
    Gate,
    GateConfig,
    GoodSample,
    NonInferiority,
    Prices,
    Requirement,
    freeze_gate,
    gate_changes,
    is_gate,
    load_gate,
    read_gate,
)
from posttrain.release.judge import judge
from posttrain.release.junit import write_junit
from posttrain.release.report import ReportSection, write_report
from posttrain.release.verdict import Check, Comparison, SampleChange, Verdict, verdict_lines

__all__ = [
    "Check",
    "Comparison",
    "Criterion",
    "Gate",
    "GateConfig",
    "GoodSample",
    "NonInferiority",
    "Prices",
    "ReportSection",
    "Requirement",
    "SampleChange",
    "Verdict",
    "freeze_gate",
    "gate_changes",
    "is_gate",
    "judge",
    "load_gate",
    "read_gate",
    "verdict_lines",
    "write_junit",
    "write_report",
]
