"""Scorers of wording and form: contains, not_contains, regex, length, declines, evidence."""

import re
from typing import Any, Literal

from pydantic import Field

from posttrain.data import looks_like_refusal
from posttrain.errors import ConfigError
from posttrain.evaluation.cases import Case
from posttrain.evaluation.scores import (
    Score,
    Scorer,
    ScorerContext,
    ScorerKind,
    ScorerOptions,
    no_files,
    not_applicable,
    one_output,
    passed,
    scorers,
)
from posttrain.evaluation.scoring.values import MISSING, field_at, output_field
from posttrain.records import Generation


class ContainsOptions(ScorerOptions):
    """Phrases the output must (or must not) contain, from the suite or from each case."""

    values: tuple[str, ...] = ()
    """The phrases, the same for every case."""
    expected_field: str | None = None
    """Or a dotted path in ``expected`` that holds a phrase or a list of them; a case without it is not applicable."""
    field: str | None = None
    """Look in this field of the JSON output instead of the whole text."""
    mode: Literal["all", "any"] = "all"
    """``contains``: whether all phrases are needed or one is enough."""
    ignore_case: bool = True
    """Compare without case."""


def build_contains(options: ContainsOptions, name: str, context: ScorerContext) -> Scorer:
    """1 when the phrases are there."""
    return _phrases(options, name, wanted=True)


def build_not_contains(options: ContainsOptions, name: str, context: ScorerContext) -> Scorer:
    """1 when none of the phrases is there. An absent field contains nothing."""
    return _phrases(options, name, wanted=False)


def _phrases(options: ContainsOptions, name: str, *, wanted: bool) -> Scorer:
    if bool(options.values) == (options.expected_field is not None):
        raise ConfigError(f"scorer '{name}': give either `values:` or `expected_field:`")

    def score(case: Case, generation: Generation) -> list[Score]:
        phrases: Any = options.values
        if options.expected_field is not None:
            phrases = field_at(case.expected, options.expected_field)
            if phrases is MISSING or phrases is None or phrases == []:
                return [not_applicable(name, f"expected has no '{options.expected_field}'")]
            phrases = phrases if isinstance(phrases, list) else [phrases]
        value, why = output_field(generation.text, options.field)
        if value is MISSING:
            return [passed(name, not wanted, why)]
        text = value if isinstance(value, str) else str(value)
        found = [p for p in map(str, phrases) if (p.casefold() in text.casefold() if options.ignore_case else p in text)]
        if not wanted:
            return [passed(name, not found, f"contains {', '.join(map(repr, found))}")]
        missing = [p for p in map(str, phrases) if p not in found]
        return [passed(name, not missing if options.mode == "all" else bool(found), f"lacks {', '.join(map(repr, missing))}")]

    return score


class RegexOptions(ScorerOptions):
    """A regular expression (Python's) that must be found."""

    pattern: str = Field(min_length=1)
    """The expression; searched for, anchor it with ^ and $ to match the whole."""
    field: str | None = None
    """Look in this field of the JSON output instead of the whole text."""


def build_regex(options: RegexOptions, name: str, context: ScorerContext) -> Scorer:
    """1 when the pattern is found."""
    try:
        pattern = re.compile(options.pattern)
    except re.error as error:
        raise ConfigError(f"scorer '{name}': pattern {options.pattern!r} is no regular expression: {error}") from None

    def score(case: Case, generation: Generation) -> list[Score]:
        value, why = output_field(generation.text, options.field)
        text = value if isinstance(value, str) else str(value)
        return [passed(name, value is not MISSING and pattern.search(text) is not None, why or "the pattern is not found")]

    return score


class LengthOptions(ScorerOptions):
    """How long the output is; with a limit, whether it keeps to it."""

    unit: Literal["words", "characters", "tokens"] = "words"
    """What is counted."""
    max: int | None = Field(None, ge=0)
    """Longest accepted. Without it the score is the amount itself."""


def build_length(options: LengthOptions, name: str, context: ScorerContext) -> Scorer:
    """The amount, or 1 when it is at most ``max``."""

    def score(case: Case, generation: Generation) -> list[Score]:
        words, characters = len(generation.text.split()), len(generation.text)
        amount = {"words": words, "characters": characters, "tokens": generation.num_completion_tokens}[options.unit]
        if options.max is None:
            return [Score(name, float(amount), kind="amount")]
        return [passed(name, amount <= options.max, f"{amount} {options.unit}, at most {options.max} accepted")]

    return score


def build_declines(options: ScorerOptions, name: str, context: ScorerContext) -> Scorer:
    """1 when the opening of the answer reads like a refusal, whether or not one was called for: for watching their share."""
    return lambda case, generation: [passed(name, looks_like_refusal(generation.text))]


class EvidenceOptions(ScorerOptions):
    """Overlap of the evidence an answer cites with the evidence it should cite."""

    field: str = "evidence"
    """List of references in the JSON output."""
    expected_field: str | None = None
    """List in ``expected``; by default the same path. A case without it is not applicable."""
    reference_only: bool = True
    """Compare the first word of each item, so that ``r2c1 1,452.4`` is the reference ``r2c1``."""


def build_evidence(options: EvidenceOptions, name: str, context: ScorerContext) -> Scorer:
    """F1 of the two sets: 2 |given and gold| / (|given| + |gold|), a fraction."""

    def references(value: Any) -> set[str]:
        items = value if isinstance(value, list) else [value]
        texts = [item if isinstance(item, str) else repr(item) for item in items]
        return {text.split()[0] if options.reference_only and text.split() else text for text in texts}

    def score(case: Case, generation: Generation) -> list[Score]:
        gold = field_at(case.expected, options.expected_field or options.field)
        if gold is MISSING or gold is None or gold == []:
            return [not_applicable(name, "no evidence is expected", "fraction")]
        given, why = output_field(generation.text, options.field)
        if given is MISSING:
            return [Score(name, 0.0, reason=why, kind="fraction")]
        wanted, cited = references(gold), references(given)
        common = len(wanted & cited)
        reason = "" if wanted == cited else f"cites {sorted(cited)[:8]}, expected {sorted(wanted)[:8]}"
        return [Score(name, 2 * common / (len(wanted) + len(cited)) if cited else 0.0, reason=reason, kind="fraction")]

    return score


scorers.register("contains")(ScorerKind(ContainsOptions, build_contains, one_output, no_files))
scorers.register("not_contains")(ScorerKind(ContainsOptions, build_not_contains, one_output, no_files))
scorers.register("regex")(ScorerKind(RegexOptions, build_regex, one_output, no_files))
scorers.register("length")(
    ScorerKind(LengthOptions, build_length, one_output, no_files, amounts=lambda options, name: [name] if options.max is None else [])
)
scorers.register("declines")(ScorerKind(ScorerOptions, build_declines, one_output, no_files))
scorers.register("evidence")(ScorerKind(EvidenceOptions, build_evidence, one_output, no_files))
