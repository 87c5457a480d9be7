"""The scorer ``grounding``: is what the answer says in what the tools found, is it cited, was evidence looked for at all?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from posttrain.data import looks_like_refusal
from posttrain.errors import ConfigError
from posttrain.evaluation.cases import Case
from posttrain.evaluation.scores import (
    Kind,
    Score,
    Scorer,
    ScorerContext,
    ScorerKind,
    ScorerOptions,
    no_amounts,
    not_applicable,
    passed,
    scorers,
    unscored,
)
from posttrain.evaluation.scoring.python import load_function
from posttrain.evaluation.scoring.values import MISSING, output_field
from posttrain.metrics import Evidence, GroundedClaim, Judge, ground_claim
from posttrain.records import Generation
from posttrain.tools.retrieval import Citation, CitationCheck, Claim, check_citations, find_claims, retrieved_spans

SHOWN = 3
KINDS: tuple[Kind, ...] = ("pass", "fraction", "fraction", "pass")
"""Of the four outputs."""


class GroundingOptions(ScorerOptions):
    """What counts as evidence, and who judges what no rule can check."""

    field: str | None = None
    """Look at this field of the JSON output instead of the whole text."""
    evidence: Literal["auto", "tools", "all"] = "auto"
    """``tools``: what tools answered, while the prompt only restates; ``all``: the prompt too, as when it holds the report asked about.
    ``auto``: ``tools`` for a case that offers tools, else ``all``."""
    retrieval_tools: tuple[str, ...] = ()
    """The tools that find evidence; empty: any tool. A case needs evidence when ``expected.calls`` names one of them, or is "any",
    or when ``expected.needs_evidence`` is true."""
    judge: str = Field("", pattern=r"^([^:]+\.py:[A-Za-z_]\w*)?$")
    """``path.py:function`` beside the suite: ``function(claim, evidence_texts)`` gives True, False or None for a claim without numbers,
    codes or quotes. It runs Python, so the suite must allow it."""


def grounding_outputs(name: str) -> list[str]:
    """Names of the four scores."""
    return [name, f"{name}_unsupported", f"{name}_citation_coverage", f"{name}_evidence_used"]


def build_grounding(options: GroundingOptions, name: str, context: ScorerContext) -> Scorer:
    """Four scores. ``<name>``: every claim that can be checked is supported, and none is made without a look where the case needs one.

    ``_unsupported``: the share of checkable claims that are not (a claim that cites what was not retrieved is not). ``_citation_coverage``:
    the share of all claims that cite something retrieved; not applicable where nothing citable was. ``_evidence_used``: a tool that
    finds evidence was called and answered; not applicable where the case needs none.
    """
    judge = _judge(options, name, context)

    def score(case: Case, generation: Generation) -> list[Score]:
        text, why = output_field(generation.text, options.field)
        if text is MISSING:
            return _unreadable(name, why, needed=_needs_evidence(case, options), used=_evidence_used(generation, options))
        shown = text if isinstance(text, str) else str(text)
        results, prompt = _texts(case, generation)
        prompt_counts = options.evidence == "all" or (options.evidence == "auto" and not case.tools)
        evidence = Evidence([*results, *(prompt if prompt_counts else [])])
        given = Evidence([] if prompt_counts else prompt)
        retrieved = [span for one in (*results, *prompt) for span in retrieved_spans(one)]
        said = find_claims(shown)
        try:
            claims = [ground_claim(claim.text, evidence, given=given, judge=judge) for claim in said]
        except Exception as error:  # the judge is the user's code
            why = f"{options.judge} raised {type(error).__name__}: {str(error)[:160]}"
            return [unscored(output, why, kind) for output, kind in zip(grounding_outputs(name), KINDS, strict=True)]
        check = check_citations(shown, retrieved)
        claims = _with_citations(claims, said, check, retrieved)
        needed, used = _needs_evidence(case, options), _evidence_used(generation, options)
        guessed = needed and not used and not looks_like_refusal(shown)
        return [*_supported(name, claims, guessed=guessed), _coverage(name, check, retrieved), _used(name, needed, used)]

    return score


def _judge(options: GroundingOptions, name: str, context: ScorerContext) -> Judge | None:
    if not options.judge:
        return None
    if not context.allow_python:
        raise ConfigError(
            f"scorer '{name}' runs Python code from {options.judge}, which this suite does not allow",
            hint="read the file first; then set `allow_python: true` in the suite",
        )
    function: Callable[..., Any] = load_function(options.judge, name, context)
    return lambda claim, texts: None if (said := function(claim, list(texts))) is None else bool(said)


def _texts(case: Case, generation: Generation) -> tuple[list[str], list[str]]:
    """(what tools answered without error, what else the prompt holds)."""
    results = [message.content for message in case.messages if message.role == "tool"]
    results += [call.result for call in generation.calls if not call.is_error]
    return results, [message.content for message in case.messages if message.role != "tool"]


def _needs_evidence(case: Case, options: GroundingOptions) -> bool:
    if not isinstance(case.expected, Mapping):
        return False
    needed = case.expected.get("needs_evidence")
    if isinstance(needed, bool):
        return needed
    calls = case.expected.get("calls")
    if calls == "any":
        return True
    names = [name for call in calls if isinstance(call, Mapping) for name in call] if isinstance(calls, list) else []
    return any(not options.retrieval_tools or name in options.retrieval_tools for name in names)


def _evidence_used(generation: Generation, options: GroundingOptions) -> bool:
    names = options.retrieval_tools
    return any(not call.is_error and (not names or call.name in names) for call in generation.calls)


def _with_citations(
    claims: Sequence[GroundedClaim], said: Sequence[Claim], check: CitationCheck, retrieved: Sequence[Citation]
) -> list[GroundedClaim]:
    """A claim that cites what was not retrieved is not supported. Bracketed words alone are citations only where something can be cited."""
    made_up = {str(one) for one in check.unknown if one.start is not None or retrieved}
    checked = []
    for claim, sentence in zip(claims, said, strict=True):
        wrong = tuple(str(one) for one in sentence.citations if str(one) in made_up)
        checked.append(GroundedClaim(claim.text, "unsupported", claim.missing + wrong) if wrong else claim)
    return checked


def _supported(name: str, claims: Sequence[GroundedClaim], *, guessed: bool) -> list[Score]:
    checkable = [claim for claim in claims if claim.status != "not_checkable"]
    bad = [claim for claim in checkable if claim.status == "unsupported"]
    reason = "; ".join(f"not in the evidence: {', '.join(claim.missing) or claim.text[:80]}" for claim in bad[:SHOWN])
    share = not_applicable(f"{name}_unsupported", "no claim that can be checked", "fraction")
    if checkable:
        share = Score(f"{name}_unsupported", len(bad) / len(checkable), reason=reason, kind="fraction")
    if guessed and claims:
        return [passed(name, False, "answered without looking for evidence"), share]
    if not checkable:
        return [not_applicable(name, "no claim that can be checked"), share]
    return [passed(name, not bad, reason), share]


def _coverage(name: str, check: CitationCheck, retrieved: Sequence[Citation]) -> Score:
    output = f"{name}_citation_coverage"
    if check.coverage is None or not (retrieved or any(one.start is not None for one in check.unknown)):
        return not_applicable(output, "no claim" if check.coverage is None else "nothing that can be cited was retrieved", "fraction")
    reason = "" if check.coverage == 1 else f"{check.num_covered} of {check.num_claims} claims cite something retrieved"
    return Score(output, check.coverage, reason=reason, kind="fraction")


def _used(name: str, needed: bool, used: bool) -> Score:
    output = f"{name}_evidence_used"
    return passed(output, used, "no call that finds evidence") if needed else not_applicable(output, "the case needs no evidence")


def _unreadable(name: str, why: str, *, needed: bool, used: bool) -> list[Score]:
    """The scores of an answer that cannot be read: no claim, so nothing is supported."""
    return [
        passed(name, False, why),
        not_applicable(f"{name}_unsupported", why, "fraction"),
        not_applicable(f"{name}_citation_coverage", why, "fraction"),
        _used(name, needed, used),
    ]


def _files(options: GroundingOptions) -> list[str]:
    return [options.judge.rpartition(":")[0]] if options.judge else []


scorers.register("grounding")(ScorerKind(GroundingOptions, build_grounding, grounding_outputs, _files, no_amounts))
