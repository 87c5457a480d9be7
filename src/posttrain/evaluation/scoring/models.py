"""Scores that need a model: a reward model's opinion, the likelihood of a known pair, the distance from a reference.

They are computed for all answers of a suite at once, after generation, in packed forests. The suite names a reward model by a role
(``reward: {model: held_out}``); which folder plays it is said when the suite is run.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from posttrain.errors import ConfigError, suggest
from posttrain.evaluation.cases import Case
from posttrain.evaluation.scores import (
    Asked,
    ModelScorer,
    Score,
    ScorerContext,
    ScorerKind,
    ScorerOptions,
    ScoringModels,
    no_files,
    not_applicable,
    one_output,
    scorers,
    unscored,
)
from posttrain.records import Message, TokenSequence

MAX_TOKENS = 4096  # of one forest


class RewardOptions(ScorerOptions):
    """The scalar a reward model gives the answer, in the model's own units."""

    model: str = Field(min_length=1)
    """The role of the reward model, such as ``held_out``; the folder that plays it is named when the suite is run."""


def build_reward(options: RewardOptions, name: str, context: ScorerContext) -> ModelScorer:
    """An amount: the reward of prompt and answer."""

    def score(asked: Sequence[Asked], models: ScoringModels) -> Iterator[list[Score]]:
        from posttrain.rewards import RewardModel

        if options.model not in models.rewards:
            known = suggest(options.model, models.rewards)
            raise ConfigError(f"scorer '{name}': no reward model plays '{options.model}'", hint=f"--reward {options.model}=FOLDER; {known}")
        judge = RewardModel.load(models.rewards[options.model], dtype=models.dtype)
        rows = [judge.encode(one.case.messages, (Message("assistant", one.text),), tools=one.case.tools) for one in asked]
        fits = [judge.context_length is None or len(row) <= judge.context_length for row in rows]
        values = iter(judge.score_sequences([row for row, fit in zip(rows, fits, strict=True) if fit]))
        for row, fit in zip(rows, fits, strict=True):
            if fit:
                yield [Score(name, float(next(values)), kind="amount")]
            else:
                yield [unscored(name, f"{len(row)} tokens, the reward model reads {judge.context_length}", "amount")]

    return score


class LikelihoodOptions(ScorerOptions):
    """How the evaluated model itself ranks the two answers in ``expected: {chosen: ..., rejected: ...}``."""


def build_likelihood(options: LikelihoodOptions, name: str, context: ScorerContext) -> ModelScorer:
    """Three scores from log-probabilities per token (so that length alone decides nothing).

    ``<name>``: 1 when the chosen answer is the likelier one (a tie is 0). ``<name>_margin``: chosen minus rejected, nats per token.
    ``<name>_chosen``: the chosen answer's, nats per token; it falls when a model is pushed away from both.
    """
    names = _likelihood_outputs(name)

    def score(asked: Sequence[Asked], models: ScoringModels) -> Iterator[list[Score]]:
        from posttrain.models import completion_logprobs

        if models.policy is None:
            yield from ([_unscored(names, "the answers come from a server, its model cannot be asked")] * len(asked))
            return
        contract, policy = models.open_policy()
        sequences: list[TokenSequence] = []
        for case in (answer.case for answer in asked):
            if _is_pair(case):
                for side in ("chosen", "rejected"):
                    answer = (Message("assistant", case.expected[side]),)
                    sequences.append(contract.encode_completion(case.messages, answer, tools=case.tools))
        means = iter([float(row.mean()) for row in completion_logprobs(policy, sequences, max_tokens=MAX_TOKENS)])
        for case in (answer.case for answer in asked):
            if not _is_pair(case):
                yield [not_applicable(names[0], "no pair"), *(not_applicable(other, "no pair", "amount") for other in names[1:])]
                continue
            chosen, rejected = next(means), next(means)
            yield [
                Score(names[0], float(chosen > rejected)),
                Score(names[1], chosen - rejected, kind="amount"),
                Score(names[2], chosen, kind="amount"),
            ]

    return score


class DriftOptions(ScorerOptions):
    """How far the evaluated model has moved from the reference on its own answers."""


def build_drift(options: DriftOptions, name: str, context: ScorerContext) -> ModelScorer:
    """An amount: ``log p(answer) - log p_ref(answer)`` in nats, on the exact token ids that were generated.

    Its mean over answers drawn at temperature 1 is the sequence-level KL(policy || reference) (the estimator k1 of Schulman 2020,
    "Approximating KL divergence"); over greedy answers it is the drift of the likeliest answer. Ids are never made from text again: an
    answer without ids (an endpoint's) is unscored.
    """

    def score(asked: Sequence[Asked], models: ScoringModels) -> Iterator[list[Score]]:
        from posttrain.models import completion_logprobs

        if models.reference is None:
            raise ConfigError(f"scorer '{name}': no reference model was given", hint="--reference MODEL names the one to measure from")
        if models.policy is None:
            yield from ([[unscored(name, "the answers come from a server, its model cannot be asked", "amount")]] * len(asked))
            return
        contract, policy = models.open_policy()
        sequences = [_answered(contract, answer.case, answer.token_ids) for answer in asked if answer.token_ids]
        own = [float(row.sum()) for row in completion_logprobs(policy, sequences, max_tokens=MAX_TOKENS)]
        del policy
        models.close_policy()
        reference = models.open_reference(contract)
        other = [float(row.sum()) for row in completion_logprobs(reference, sequences, max_tokens=MAX_TOKENS)]
        found = iter(zip(own, other, strict=True))
        for answer in asked:
            if not answer.token_ids:
                yield [unscored(name, "the generator gave no token ids", "amount")]
                continue
            policy_logp, reference_logp = next(found)
            yield [Score(name, policy_logp - reference_logp, kind="amount")]

    return score


def _unscored(names: Sequence[str], reason: str) -> list[Score]:
    """The three likelihood scores, none of which could be told."""
    return [unscored(names[0], reason), *(unscored(name, reason, "amount") for name in names[1:])]


def _likelihood_outputs(name: str) -> list[str]:
    return [name, f"{name}_margin", f"{name}_chosen"]


def _is_pair(case: Case) -> bool:
    return isinstance(case.expected, dict) and {"chosen", "rejected"} <= case.expected.keys()


def _answered(contract: Any, case: Case, token_ids: Sequence[int]) -> TokenSequence:
    """Prompt and generated ids as one sequence whose answer is supervised."""
    import numpy as np

    prompt = contract.encode(case.messages, tools=case.tools, add_generation_prompt=True)
    ids = np.concatenate([prompt, np.asarray(token_ids, dtype=np.int32)])
    return TokenSequence(ids, np.arange(len(ids)) >= len(prompt))


def _itself(options: ScorerOptions, name: str) -> list[str]:
    return [name]


def _likelihood_amounts(options: ScorerOptions, name: str) -> list[str]:
    return _likelihood_outputs(name)[1:]


for _name, _options, _build, _outputs, _amounts in (
    ("reward", RewardOptions, build_reward, one_output, _itself),
    ("likelihood", LikelihoodOptions, build_likelihood, _likelihood_outputs, _likelihood_amounts),
    ("drift", DriftOptions, build_drift, one_output, _itself),
):
    scorers.register(_name)(ScorerKind(_options, _build, _outputs, no_files, needs_models=True, amounts=_amounts))
