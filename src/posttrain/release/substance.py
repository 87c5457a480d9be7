"""Valid is not right: a gate that asks for nothing but form ships a model that is wrong in perfect JSON."""

from collections.abc import Mapping

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
    """Scores of the suite that the verdict rests on, in order of mention; readings of two metrics are not among them.

    What makes a sample good counts only where something is asked of ``good``.
    """
    asked = [*(c.metric for c in config.criteria), *(t.metric for t in config.non_inferiority)]
    read = [entry.metric for entry in config.two_metric.entries] if config.two_metric else []
    named = [*([part.score for part in config.good.requires] if GOOD in (*asked, *read) else []), *asked]
    return [name for name in dict.fromkeys(named) if name not in (GOOD, *AMOUNTS)]


def form_scores(suite: Suite) -> list[str]:
    """Scores of a suite that say how an answer looks, not whether it is right."""
    return [f"{scorer.name}{part}" for scorer in suite.scorers for part in FORM.get(scorer.kind, ())]


def substance_check(config: GateConfig, suite: Suite) -> Check | None:
    """Blocks when every score the gate asks for is one of form; None where it asks for no such score."""
    forms = form_scores(suite)
    judged = judged_scores(config)
    together = [entry.metric for entry in config.two_metric.entries if entry.metric not in (GOOD, *AMOUNTS)] if config.two_metric else []
    asked = [name for name in judged if name in forms]
    if not asked:
        return None
    content = [name for name in dict.fromkeys((*judged, *together)) if name not in forms]
    if content:
        return Check("substance", "valid and right", "", "pass", REQUIRED, f"besides form it asks for {', '.join(content)}")
    others = [name for name in suite.score_names if name not in forms]
    there = f"the suite also has {', '.join(others[:6])}" if others else "the suite has no score of content"
    reason = f"valid is not right: it asks for {', '.join(asked)} and for nothing that a wrong answer would miss; {there}"
    return Check("substance", "valid and right", "", "block", REQUIRED, reason)
