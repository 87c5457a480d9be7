"""Suites, scorers and their results. A suite asks a generator; results lie in a folder the release gate reads."""

from posttrain.evaluation.cases import Case
from posttrain.evaluation.episodes import changed_versions
from posttrain.evaluation.evaluate import EvaluationProgress, evaluate, score_sample
from posttrain.evaluation.freeze import (
    changed_settings,
    changes_since_freeze,
    check_frozen,
    check_settings_frozen,
    freeze_settings,
    freeze_suite,
    read_lock,
    shorten,
)
from posttrain.evaluation.results import CaseInfo, EvaluationResult, SampleResult
from posttrain.evaluation.scores import Score, Scorer, ScorerContext, ScorerKind, ScorerOptions, ScoringModels, conjunction, scorers
from posttrain.evaluation.suite import Suite, SuiteConfig, load_suite, read_suite
from posttrain.evaluation.summary import Rate, latency_of, members, rate_of, summarise, summary_lines

__all__ = [
    "Case",
    "CaseInfo",
    "EvaluationProgress",
    "EvaluationResult",
    "Rate",
    "SampleResult",
    "Score",
    "Scorer",
    "ScorerContext",
    "ScorerKind",
    "ScorerOptions",
    "ScoringModels",
    "Suite",
    "SuiteConfig",
    "changed_settings",
    "changed_versions",
    "changes_since_freeze",
    "check_frozen",
    "check_settings_frozen",
    "conjunction",
    "evaluate",
    "freeze_settings",
    "freeze_suite",
    "latency_of",
    "load_suite",
    "members",
    "rate_of",
    "read_lock",
    "read_suite",
    "score_sample",
    "scorers",
    "shorten",
    "summarise",
    "summary_lines",
]
