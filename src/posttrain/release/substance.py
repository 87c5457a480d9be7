"""Valid is not right: a gate that asks for nothing but form ships a model that is wrong in perfect JSON."""

from collections.abc import Iterable, Mapping

from posttrain.evaluation import Suite
from posttrain.release.gate import AMOUNTS, GOOD, GateConfig
from posttrain.release.verdict import Check

FORM: Mapping[str, tuple[str, ...]] = {
    "json_schema": ("",),
    "length": ("",),
    "tool_calls": ("_valid", "_count"),
    "tool_results": ("_success",),
}
"""Scores, by scorer and by what follows its name, that a wrong answer can have in full."""
REQUIRED = "a score of what the answer says or does, besides its form"


def judged_scores(config: GateConfig) -> list[str]:
    """Scores of the suite that the verdict rests on, in order of mention.

    What ``good`` requires is among them where a check is about ``good``; readings of two metrics where nothing else is judged.
    """
    named = [part.score for part in config.good.requires] if config.judges_good else []
    named += [criterion.metric for criterion in config.criteria] + [test.metric for test in config.non_inferiority]
    return _scores(named) or _read_together(config)


def _read_together(config: GateConfig) -> list[str]:
    return _scores(entry.metric for entry in config.two_metric.entries) if config.two_metric else []


def _scores(names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name not in (GOOD, *AMOUNTS)]


def form_scores(suite: Suite) -> list[str]:
    """Scores of a suite that say how an answer looks, not whether it is right."""
    return [f"{scorer.name}{part}" for scorer in suite.scorers for part in FORM.get(scorer.kind, ())]


def substance_check(config: GateConfig, suite: Suite) -> Check | None:
    """Blocks when every score the gate asks for is one of form, or when it asks for none; None where no score of form is asked for."""
    forms = form_scores(suite)
    judged = judged_scores(config)
    asked = [name for name in judged if name in forms]
    content = [name for name in dict.fromkeys((*judged, *_read_together(config))) if name not in forms]
    if content:
        reason = f"besides form it asks for {', '.join(content)}"
        return Check("substance", "valid and right", "", "pass", REQUIRED, reason) if asked else None
    others = [name for name in suite.score_names if name not in forms]
    there = f"the suite also has {', '.join(others[:6])}" if others else "the suite has no score of content"
    reason = f"valid is not right: it asks for {', '.join(asked) or 'no score'} and for nothing that a wrong answer would miss; {there}"
    return Check("substance", "valid and right", "", "block", REQUIRED, reason)
