"""Scorers of tool use: ``tool_calls`` (were the right calls made) and ``tool_results`` (did they work, did the answer use them).

A case says what is needed in ``expected.calls``, in the form of BFCL's possible answers: ``[{name: {argument: [accepted values]}}, ...]``;
``[]`` where no call is needed; ``"any"`` where some call is, whichever (BFCL's relevance).
"""

from collections.abc import Mapping

from posttrain.errors import DataError
from posttrain.evaluation.cases import Case
from posttrain.evaluation.scores import (
    Score,
    Scorer,
    ScorerContext,
    ScorerKind,
    ScorerOptions,
    no_files,
    not_applicable,
    passed,
    scorers,
    unscored,
)
from posttrain.metrics import CallMatch, check_calls, match_calls, results_used, signature_problem
from posttrain.records import Generation

ANY = "any"


def tool_call_outputs(name: str) -> list[str]:
    """Names of the seven scores."""
    return [name, *(f"{name}_{part}" for part in ("valid", "precision", "recall", "arguments", "abstained", "count"))]


def build_tool_calls(options: ScorerOptions, name: str, context: ScorerContext) -> Scorer:
    """Seven scores. ``<name>``: the whole answer by BFCL's rules. ``_valid``: every call fits its signature, right or wrong.

    ``_precision``, ``_recall``, ``_arguments``: fractions by best one-to-one matching. ``_abstained``: no call where none is needed; not
    applicable elsewhere. ``_count``: calls made. A turn that could not be read as a call counts as a call that is wrong.
    """
    return lambda case, generation: [*_against_needed(case, generation, name), *_against_signatures(case, generation, name)]


def _against_needed(case: Case, generation: Generation, name: str) -> list[Score]:
    parts = ("precision", "recall", "arguments")
    outputs = [name, *(f"{name}_{part}" for part in parts), f"{name}_abstained"]
    needed = case.expected.get("calls") if isinstance(case.expected, Mapping) else None
    made = generation.calls
    if needed is None:
        return [not_applicable(output, "the case does not say which calls are needed") for output in outputs]
    if needed == ANY:
        readable = sum(1 for call in made if call.name)
        return [passed(name, readable > 0, "no call was made"), *(not_applicable(output, "any call will do") for output in outputs[1:])]
    try:
        if not isinstance(needed, list):
            raise DataError(f"expected.calls is {needed!r:.60}, no list of needed calls")
        verdict, match = check_calls(made, needed, case.tools), match_calls(made, needed, case.tools)
    except DataError as error:
        return [unscored(output, error.message) for output in outputs]
    scores = [passed(name, verdict.valid, verdict.message, label=verdict.error_type)]
    scores += [_share(f"{name}_{part}", getattr(match, part), match) for part in parts]
    abstained = f"{name}_abstained"
    called = f"called {', '.join(call.name or 'something unreadable' for call in made)}"
    return [*scores, not_applicable(abstained, "calls are needed") if needed else passed(abstained, not made, called)]


def _share(name: str, value: float | None, match: CallMatch) -> Score:
    if value is None:
        return not_applicable(name, f"{match.num_made} calls, needed {match.num_needed}", "fraction")
    return Score(
        name,
        value,
        reason="" if value == 1 else f"{match.num_correct} right of {match.num_made}, needed {match.num_needed}",
        kind="fraction",
    )


def _against_signatures(case: Case, generation: Generation, name: str) -> list[Score]:
    count = Score(f"{name}_count", float(len(generation.calls)), kind="amount")
    if not generation.calls:
        return [not_applicable(f"{name}_valid", "no call was made"), count]
    try:
        problems = [problem for call in generation.calls if (problem := signature_problem(call, case.tools))]
    except DataError as error:
        return [unscored(f"{name}_valid", error.message), count]
    return [passed(f"{name}_valid", not problems, "; ".join(problems)[:200]), count]


def tool_result_outputs(name: str) -> list[str]:
    """Names of the two scores."""
    return [f"{name}_success", f"{name}_used"]


def build_tool_results(options: ScorerOptions, name: str, context: ScorerContext) -> Scorer:
    """``_success``: share of calls that ended without an error. ``_used``: share of results of which the answer repeats something new.

    Not applicable where nothing was called, and where calls were recorded but not run.
    """

    def score(case: Case, generation: Generation) -> list[Score]:
        success, used = tool_result_outputs(name)
        calls = generation.calls
        if not any(call.result for call in calls):
            return [not_applicable(output, "no call was run", "fraction") for output in (success, used)]
        failed = [f"{call.name or 'unreadable'}: {call.status}" for call in calls if call.is_error]
        prompt = "\n".join(message.content for message in case.messages)
        share = results_used([call.result for call in calls if not call.is_error], generation.text, prompt)
        scores = [Score(success, 1 - len(failed) / len(calls), reason="; ".join(failed)[:200], kind="fraction")]
        if share is None:
            return [*scores, not_applicable(used, "no result says anything new", "fraction")]
        return [*scores, Score(used, share, reason="" if share == 1 else "the answer repeats nothing of some results", kind="fraction")]

    return score


scorers.register("tool_calls")(
    ScorerKind(ScorerOptions, build_tool_calls, tool_call_outputs, no_files, amounts=lambda options, name: [f"{name}_count"])
)
scorers.register("tool_results")(ScorerKind(ScorerOptions, build_tool_results, tool_result_outputs, no_files))
