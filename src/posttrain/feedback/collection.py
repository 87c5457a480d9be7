"""Preference collection: several candidates a prompt, duplicates out, informative pairs, blind labelling tasks."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.data.repeats import duplicates
from posttrain.data.words import words
from posttrain.errors import ConfigError, DataError
from posttrain.records import Comparison, Demonstration, GenerationRequest, Message

Strategy = Literal["diverse", "difference", "uncertain", "random"]
STRATEGIES: tuple[Strategy, ...] = ("diverse", "difference", "uncertain", "random")
Conversation = tuple[Message, ...]
Scorer = Callable[[Sequence[tuple[Conversation, Conversation]]], Sequence[float]]
"""(prompt, completion) to a number, higher is better: a reward model or a judge."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled answer. ``cut``: it stopped at the token limit, not by itself."""

    request: GenerationRequest
    text: str
    number: int
    cut: bool

    @property
    def answer(self) -> Conversation:
        """The completion."""
        return (Message("assistant", self.text),)


@dataclass(frozen=True, slots=True)
class Collection:
    """The chosen comparisons and what was left out on the way. ``unpaired``: prompts with fewer than two different candidates."""

    comparisons: tuple[Comparison, ...]
    prompts: int
    candidates: int
    empty: int
    exact_duplicates: int
    near_duplicates: int
    unpaired: int
    strategy: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the comparisons."""
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "comparisons"}
        return {"comparisons": len(self.comparisons), **counts}


def candidate_requests(requests: Sequence[GenerationRequest], num_candidates: int, *, seed: int) -> list[GenerationRequest]:
    """``num_candidates`` requests a prompt, each with an id (``prompt#2``) and a seed of its own. Raises ConfigError at temperature 0."""
    if num_candidates < 2:
        raise ConfigError(f"num_candidates is {num_candidates}", hint="a comparison needs at least two answers")
    if any(request.sampling.temperature == 0 for request in requests):
        raise ConfigError("temperature 0 gives the same answer every time", hint="sample with a temperature such as 0.8")
    return [
        replace(one, id=f"{one.id}#{number}", sampling=replace(one.sampling, seed=seed + position * num_candidates + number))
        for position, one in enumerate(requests)
        for number in range(num_candidates)
    ]


def collect_pairs(
    requests: Sequence[GenerationRequest],
    answers: Sequence[Mapping[str, Any]],
    *,
    strategy: Strategy,
    pairs_per_prompt: int = 1,
    scorer: Scorer | None = None,
    near_jaccard: float = 0.85,
    seed: int = 0,
    model: str = "",
) -> Collection:
    """Comparisons to be judged, out of the answers to :func:`candidate_requests` (rows of ``answer_prompts``, in order).

    Empty answers and exact and near duplicates of an earlier answer to the prompt are left out. Then, per prompt:

    - ``diverse``: the two answers that share the least words;
    - ``difference``: the largest difference in score *at equal length*: what a word more is worth, fitted within prompts, is taken off;
    - ``uncertain``: the scores that differ least, where a judgement tells most about the scorer;
    - ``random``.

    A further pair of a prompt is preferred to hold an answer no earlier pair holds. The order of sides is left to ``labelling_tasks``.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown strategy '{strategy}'", hint=f"use one of: {', '.join(STRATEGIES)}")
    if strategy in ("difference", "uncertain") and scorer is None:
        raise ConfigError(f"strategy '{strategy}' needs scores", hint="give a reward model, or use 'diverse'")
    given = [_candidate(request, row) for request, row in zip(requests, answers, strict=True)]
    groups: dict[str, list[Candidate]] = {_prompt_id(one.request): [] for one in given}
    for one in given:
        if one.text.strip():
            groups[_prompt_id(one.request)].append(one)
    filled = sum(map(len, groups.values()))
    exact = near = 0
    for name, candidates in groups.items():
        repeats = duplicates((Demonstration((*one.request.messages, *one.answer)) for one in candidates), near_jaccard=near_jaccard)
        exact, near = exact + len(repeats.exact), near + len(repeats.near)
        groups[name] = [one for position, one in enumerate(candidates) if position not in repeats.dropped]
    kept = [one for candidates in groups.values() for one in candidates]
    values = _values(strategy, kept, scorer)
    comparisons: list[Comparison] = []
    for name, candidates in groups.items():
        rng = random.Random(f"{seed}:{name}")
        for first, second in _chosen(candidates, strategy, values, pairs_per_prompt, rng):
            comparisons.append(_comparison(name, first, second, values, strategy, model))
    if not comparisons:
        raise DataError(
            f"no prompt of {len(groups)} has two different answers", hint="sample more candidates, or with a higher temperature"
        )
    return Collection(
        comparisons=tuple(comparisons),
        prompts=len(groups),
        candidates=len(given),
        empty=len(given) - filled,
        exact_duplicates=exact,
        near_duplicates=near,
        unpaired=sum(len(candidates) < 2 for candidates in groups.values()),
        strategy=strategy,
    )


def _candidate(request: GenerationRequest, row: Mapping[str, Any]) -> Candidate:
    return Candidate(request, str(row["text"]), int(request.id.rpartition("#")[2]), row.get("finish_reason") == "length")


def _prompt_id(request: GenerationRequest) -> str:
    return request.id.rpartition("#")[0]


def _values(strategy: Strategy, kept: Sequence[Candidate], scorer: Scorer | None) -> dict[str, float]:
    """The figure of every candidate that a pair is chosen by; for ``difference`` its score at equal length."""
    if scorer is None or strategy in ("diverse", "random") or not kept:
        return {}
    scores = np.asarray(scorer([(one.request.messages, one.answer) for one in kept]), dtype=np.float64)
    if strategy == "difference":
        scores = _at_equal_length(scores, kept)
    return {one.request.id: float(score) for one, score in zip(kept, scores, strict=True)}


def _at_equal_length(scores: NDArray[np.float64], kept: Sequence[Candidate]) -> NDArray[np.float64]:
    """Scores less what the logarithm of length explains within prompts (a fixed-effects regression)."""
    length = np.log([len(words(one.text)) + 1 for one in kept])
    _, code = np.unique([_prompt_id(one.request) for one in kept], return_inverse=True)
    size = np.bincount(code)
    centred_length = length - (np.bincount(code, weights=length) / size)[code]
    centred_score = scores - (np.bincount(code, weights=scores) / size)[code]
    spread = float(centred_length @ centred_length)
    slope = float(centred_length @ centred_score) / spread if spread > 0 else 0.0
    return scores - slope * length


def _chosen(
    candidates: Sequence[Candidate], strategy: Strategy, values: Mapping[str, float], count: int, rng: random.Random
) -> list[tuple[Candidate, Candidate]]:
    """The best pairs by the strategy; each next one prefers answers not shown yet."""
    vocabulary = {one.request.id: set(words(one.text)) for one in candidates}

    def worth(pair: tuple[Candidate, Candidate]) -> float:
        first, second = (one.request.id for one in pair)
        if strategy == "random":
            return rng.random()
        if strategy == "diverse":
            either = vocabulary[first] | vocabulary[second]
            return 1 - len(vocabulary[first] & vocabulary[second]) / len(either) if either else 0.0
        gap = abs(values[first] - values[second])
        return gap if strategy == "difference" else -gap

    left = sorted(combinations(candidates, 2), key=worth, reverse=True)
    taken: list[tuple[Candidate, Candidate]] = []
    shown: set[str] = set()
    while left and len(taken) < count:
        best = max(range(len(left)), key=lambda at: (sum(one.request.id not in shown for one in left[at]), -at))
        taken.append(left.pop(best))
        shown |= {one.request.id for one in taken[-1]}
    return taken


def _comparison(name: str, first: Candidate, second: Candidate, values: Mapping[str, float], strategy: Strategy, model: str) -> Comparison:
    metadata: dict[str, Any] = {"strategy": strategy, "generator": model}
    for side, one in (("a", first), ("b", second)):
        metadata |= {f"candidate_{side}": one.number, f"cut_{side}": one.cut}
        if values:
            metadata[f"score_{side}"] = values[one.request.id]
    return Comparison(
        prompt=first.request.messages,
        a=first.answer,
        b=second.answer,
        tools=first.request.tools,
        id=f"{name}#{first.number}-{second.number}",
        source="collected",
        metadata=metadata,
    )
