"""Scorers that compare a field of the output with the expected one: schema, exact, numeric, answer."""

import json
import math
from collections.abc import Callable
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from pydantic import Field

from posttrain.errors import ConfigError
from posttrain.evaluation.cases import Case
from posttrain.evaluation.scores import (
    Score,
    Scorer,
    ScorerContext,
    ScorerKind,
    ScorerOptions,
    no_amounts,
    no_files,
    not_applicable,
    one_output,
    passed,
    scorers,
)
from posttrain.evaluation.scoring.values import MISSING, field_at, normal_text, number_in, output_field, parse_json
from posttrain.records import Generation


class JsonSchemaOptions(ScorerOptions):
    """The output is strict JSON (nothing around it) and valid under a JSON Schema (2020-12)."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """The schema itself."""
    file: str = ""
    """Or a JSON file that holds it, relative to the suite."""


def build_json_schema(options: JsonSchemaOptions, name: str, context: ScorerContext) -> Scorer:
    """1 when the output parses and validates."""
    if (options.schema_ is None) == (not options.file):
        raise ConfigError(f"scorer '{name}': give either `schema:` or `file:`")
    schema: Any = options.schema_
    if options.file:
        path = context.folder / options.file
        try:
            schema = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"scorer '{name}': {path}: {error}", hint="`file:` is a JSON Schema, relative to the suite") from None
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ConfigError(f"scorer '{name}': not a JSON Schema: {error.message}", hint="fix the schema; it is draft 2020-12") from None
    validator = Draft202012Validator(schema)

    def score(case: Case, generation: Generation) -> list[Score]:
        value, why = parse_json(generation.text)
        if value is MISSING:
            return [passed(name, False, why)]
        error = best_match(validator.iter_errors(value))
        return [passed(name, error is None, f"{error.json_path}: {error.message[:160]}" if error else "")]

    return score


class FieldOptions(ScorerOptions):
    """A field of the JSON output against a field of ``expected``."""

    field: str | None = None
    """Dotted path in the output read as JSON; absent: the output text as it is."""
    expected_field: str | None = None
    """Dotted path in ``expected``; by default the same as ``field``. A case without it is not applicable."""


class ExactOptions(FieldOptions):
    """Equality."""

    normalise: bool = True
    """Ignore case, outer punctuation, articles and runs of white space."""


class NumericOptions(FieldOptions):
    """Equality as numbers, within a tolerance."""

    scale_field: str | None = None
    """Path of the scale word (thousand, million, billion, percent) in both output and expected."""
    relative_tolerance: float = Field(1e-4, ge=0, lt=1)
    """Accepted |difference| / |expected|. 1e-4 still tells the year 2018 from 2019."""
    absolute_tolerance: float = Field(0.0, ge=0)
    """Accepted |difference|, in units of the expected number after its scale."""


Compare = Callable[[Any, Any, Any, Any], bool | None]


def _field_scorer(options: FieldOptions, name: str, scale_field: str | None, compare: Compare) -> Scorer:
    expected_path = options.expected_field if options.expected_field is not None else options.field or ""

    def score(case: Case, generation: Generation) -> list[Score]:
        expected = field_at(case.expected, expected_path)
        if expected is MISSING or expected is None:
            return [not_applicable(name, f"expected has no '{expected_path}'")]
        scale = field_at(case.expected, scale_field) if scale_field else ""
        applicable = compare(expected, scale, expected, scale)
        if applicable is None:
            return [not_applicable(name, f"expected {expected!r} is not a number")]
        given, why = output_field(generation.text, options.field)
        if given is MISSING:
            return [passed(name, False, why)]
        given_scale, _ = output_field(generation.text, scale_field) if scale_field else ("", "")
        ok = compare(given, given_scale, expected, scale)
        return [passed(name, bool(ok), f"gave {_shown(given, given_scale)}, expected {_shown(expected, scale)}")]

    return score


def _shown(value: Any, scale: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)[:80]
    return f"{text} {scale}" if isinstance(scale, str) and scale else text


def build_exact(options: ExactOptions, name: str, context: ScorerContext) -> Scorer:
    """1 when the field equals the expected one; lists in order."""

    def compare(given: Any, _gs: Any, expected: Any, _es: Any) -> bool:
        return normal_text(given) == normal_text(expected) if options.normalise else bool(given == expected)

    return _field_scorer(options, name, None, compare)


def build_numeric(options: NumericOptions, name: str, context: ScorerContext) -> Scorer:
    """1 when both are the same number; not applicable where the expected value is no number."""

    def compare(given: Any, given_scale: Any, expected: Any, scale: Any) -> bool | None:
        wanted = number_in(expected, _scale(scale))
        if wanted is None:
            return None
        return _close(number_in(given, _scale(given_scale)), wanted, options)

    return _field_scorer(options, name, options.scale_field, compare)


def build_answer(options: NumericOptions, name: str, context: ScorerContext) -> Scorer:
    """1 when the answer is right as TAT-QA asks: numbers by value and scale, texts by normal form, lists in any order."""

    def compare(given: Any, given_scale: Any, expected: Any, scale: Any) -> bool:
        wanted = expected if isinstance(expected, list) else [expected]
        got = given if isinstance(given, list) else [given]
        if len(wanted) != len(got):
            return False
        left = list(got)
        for part in wanted:
            found = next((i for i, other in enumerate(left) if _same(other, given_scale, part, scale, options)), None)
            if found is None:
                return False
            left.pop(found)
        return True

    return _field_scorer(options, name, options.scale_field, compare)


def _same(given: Any, given_scale: Any, expected: Any, scale: Any, options: NumericOptions) -> bool:
    wanted = number_in(expected, _scale(scale))
    if wanted is not None:
        return _close(number_in(given, _scale(given_scale)), wanted, options)
    return isinstance(given, str | int | float) and normal_text(given) == normal_text(expected)


def _scale(scale: Any) -> Any:
    return "" if scale is MISSING or scale is None else scale if isinstance(scale, str) else "?"


def _close(given: float | None, expected: float, options: NumericOptions) -> bool:
    if given is None:
        return False
    return math.isclose(given, expected, rel_tol=0, abs_tol=max(options.absolute_tolerance, abs(expected) * options.relative_tolerance))


def _schema_files(options: JsonSchemaOptions) -> list[str]:
    return [options.file] if options.file else []


scorers.register("json_schema")(ScorerKind(JsonSchemaOptions, build_json_schema, one_output, _schema_files, no_amounts))
scorers.register("exact")(ScorerKind(ExactOptions, build_exact, one_output, no_files, no_amounts))
scorers.register("numeric")(ScorerKind(NumericOptions, build_numeric, one_output, no_files, no_amounts))
scorers.register("answer")(ScorerKind(NumericOptions, build_answer, one_output, no_files, no_amounts))
