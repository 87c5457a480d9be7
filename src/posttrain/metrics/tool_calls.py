"""Calls made against calls needed: one-to-one matching, precision, recall, right arguments; signatures; what became of results.

Being *valid* under a signature and being *right* are separate figures: a call may be perfect JSON and move the wrong account.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.errors import DataError
from posttrain.metrics.bfcl import LEFT_OUT, Call, Needed, check_argument, check_call, function_of, needed_parts, properties_of
from posttrain.metrics.numbers import find_codes, find_numbers

_WORD = re.compile(r"[^\W\d_][\w-]{3,}")


@dataclass(frozen=True, slots=True)
class CallMatch:
    """Counts of one answer; add them up to pool several. Shares whose denominator is zero are None, not zero.

    ``num_correct``: needed calls that were made and are right (a made call serves one needed call only). ``num_arguments``: of the calls
    paired with a needed call of the same name, the arguments given or called for; ``num_right_arguments``: those given and accepted.
    """

    num_needed: int
    num_made: int
    num_correct: int
    num_arguments: int
    num_right_arguments: int

    @property
    def precision(self) -> float | None:
        """Right calls over calls made."""
        return self.num_correct / self.num_made if self.num_made else None

    @property
    def recall(self) -> float | None:
        """Needed calls correctly made over needed calls; never above 1, however many calls are made."""
        return self.num_correct / self.num_needed if self.num_needed else None

    @property
    def arguments(self) -> float | None:
        """Right arguments over arguments given or called for, in calls of the right name."""
        return self.num_right_arguments / self.num_arguments if self.num_arguments else None

    def __add__(self, other: "CallMatch") -> "CallMatch":
        return CallMatch(*(getattr(self, name) + getattr(other, name) for name in CallMatch.__slots__))


def match_calls(made: Sequence[Call], needed: Sequence[Needed], signatures: Sequence[Mapping[str, Any]]) -> CallMatch:
    """Pair made with needed calls so that as many as possible are right, and argument by argument so that as much as possible is.

    Raises DataError when a needed function is not offered.
    """
    offered = {function_of(one)["name"]: one for one in signatures}
    for one in needed:
        name, _ = needed_parts(one)
        if name not in offered:
            raise DataError(f"the needed function '{name}' is not among those offered", hint=f"offered: {', '.join(offered) or 'none'}")
    shape = (len(made), len(needed))
    right, arguments, of = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for j, one in enumerate(needed):
        name, _ = needed_parts(one)
        for i, call in enumerate(made):
            if call.name == name:
                right[i, j] = check_call(call, one, offered[name]).valid
                arguments[i, j], of[i, j] = _argument_counts(call, one, offered[name])
    same_name = np.array([[call.name in one for one in needed] for call in made], dtype=float).reshape(shape)
    pairs = [pair for pair in _best_pairs(same_name + arguments / (of.max(initial=0) * max(shape) + 1)) if same_name[pair]]
    return CallMatch(
        num_needed=len(needed),
        num_made=len(made),
        num_correct=round(sum(right[pair] for pair in _best_pairs(right))),
        num_arguments=round(sum(of[pair] for pair in pairs)),
        num_right_arguments=round(sum(arguments[pair] for pair in pairs)),
    )


def _best_pairs(weights: Any) -> list[tuple[int, int]]:
    """One-to-one pairs of rows and columns of the greatest total weight."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(weights, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _argument_counts(call: Call, needed: Needed, signature: Mapping[str, Any]) -> tuple[int, int]:
    """(right, given or called for) arguments of a call of the needed name."""
    properties = properties_of(signature)
    _, accepted = needed_parts(needed)
    called_for = {name for name, values in accepted.items() if LEFT_OUT not in values}
    known = [name for name in call.arguments if name in accepted and name in properties]
    right = sum(check_argument(name, call.arguments[name], accepted[name], properties[name]).valid for name in known)
    return right, len(called_for | set(call.arguments))


def signature_problem(call: Call, signatures: Sequence[Mapping[str, Any]]) -> str:
    """Why a call does not fit the signatures offered, or "": unknown tool, argument it does not have, JSON Schema error.

    An argument that the signature does not name is wrong unless the signature says ``additionalProperties``. Raises DataError for a
    signature that is no JSON Schema.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    offered = {function_of(one)["name"]: function_of(one) for one in signatures}
    if call.name not in offered:
        return f"'{call.name}' is not among the tools" if call.name else "it could not be read as a call"
    parameters = dict(offered[call.name].get("parameters", {}))
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        raise DataError(f"tool '{call.name}': its parameters are no JSON Schema: {error.message:.120}", hint="mend the signature") from None
    if not parameters.get("additionalProperties"):
        unknown = [name for name in call.arguments if name not in parameters.get("properties", {})]
        if unknown:
            return f"'{call.name}' has no argument '{unknown[0]}'"
    try:  # an empty registry: nothing is fetched
        wrong = best_match(Draft202012Validator(parameters, registry=Registry()).iter_errors(dict(call.arguments)))
    except (Unresolvable, RecursionError) as error:
        why = str(error) if isinstance(error, Unresolvable) else "a $ref that leads back to itself"
        raise DataError(f"tool '{call.name}': its parameters cannot be applied: {why:.120}", hint="mend the signature") from None
    return f"{call.name}: {wrong.json_path}: {wrong.message:.120}" if wrong else ""


def results_used(results: Sequence[str], answer: str, prompt: str = "") -> float | None:
    """Share of the results of which the answer repeats something that the prompt did not hold already.

    Figures and codes (``INV-2031``) count before words: of a result that has new ones, one of these must be repeated, else a word of four
    letters or more. Results that say nothing new are left out; None when all do.
    """
    used = []
    for result in results:
        new = _figures(result) - _figures(prompt)
        if new:
            used.append(bool(new & _figures(answer)))
        elif words := _words(result) - _words(prompt):
            used.append(bool(words & _words(answer)))
    return sum(used) / len(used) if used else None


def _figures(text: str) -> frozenset[str]:
    """Numbers without sign, as written and scaled (``12.5 %`` is 12.5 and 0.125), and codes."""
    found = find_numbers(text)
    return frozenset({f"{size:.10g}" for one in found for size in (one.magnitude, one.size)} | set(find_codes(text)))


def _words(text: str) -> frozenset[str]:
    return frozenset(word.casefold() for word in _WORD.findall(text))
