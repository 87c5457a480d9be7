"""One point of a sweep, measured: how often it moved towards the better of two held-out answers, and how far it moved altogether."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.chat import ChatContract
from posttrain.metrics import Interval, mean_interval, proportion_interval
from posttrain.models import ModelSettings, Policy, completion_logprobs
from posttrain.objectives.kl import kl_per_token
from posttrain.recipes.sweep.source import prompt_key
from posttrain.records import GenerationRequest, PreferencePair, SamplingSettings, TokenSequence, UnpairedLabel
from posttrain.stages.pairs import PreferenceData
from posttrain.training import reference_logprobs


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """Fresh answers that drift is measured on: at most ``count`` held-out prompts, one answer each, at temperature 1."""

    count: int = 64
    max_new_tokens: int = 64
    batch_size: int = 16


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures with 95 % intervals, grouped by prompt. Log-ratios are log pi/pi_ref, in nats, summed over an answer.

    margin: better minus worse log-ratio on held-out pairs, the target gain (without beta, so that points compare). accuracy: share of pairs
    where it is above 0 (a tie is one half); .5 by chance, and blind to the size of the step. kl: KL(policy || start model) of an answer's
    first tokens, estimator k3 on the policy's own samples. chosen_change, rejected_change: mean log-ratio of the better and the worse
    answers.
    """

    accuracy: Interval
    margin: Interval
    kl: Interval
    chosen_change: Interval
    rejected_change: Interval

    def dump(self) -> dict[str, Any]:
        """Plain JSON; a bound that is not finite is null."""
        return {name: _finite(interval) for name, interval in asdict(self).items()}


def measure(
    trained: ModelSettings, start: ModelSettings, pairs: PreferenceData, cache: Path, *, contract: ChatContract, samples: SampleSettings
) -> Measurement:
    """Compare a trained policy with the model it started from, on held-out pairs and on fresh answers to their prompts.

    cache: where the start model's log-probabilities of the held-out answers are kept for all points. One model is in memory at a time.
    """
    groups = [prompt_key(record) for record in pairs.records]
    fresh = _sample(trained, [pairs.records[groups.index(key)] for key in list(dict.fromkeys(groups))[: samples.count]], contract, samples)
    policy = Policy.load(trained, seed=0)
    own = completion_logprobs(policy, pairs.sequences)
    own_fresh = completion_logprobs(policy, fresh)
    del policy
    reference = Policy.load(start, seed=0)
    ref = reference_logprobs(reference, pairs.sequences, cache, contract=contract.hash)
    ratios = np.array([float((row.double() - ref[position].double()).sum()) for position, row in enumerate(own)])
    ref_fresh = completion_logprobs(reference, fresh)
    drifts = [float(kl_per_token(new.double(), old.double(), estimator="k3").sum()) for new, old in zip(own_fresh, ref_fresh, strict=True)]
    better, worse, groups = _ordered(ratios, pairs, groups)
    correct = (np.sign(better - worse) + 1) / 2
    interval = proportion_interval if np.isin(correct, (0.0, 1.0)).all() else mean_interval
    return Measurement(
        accuracy=interval(correct, groups=groups),
        margin=mean_interval(better - worse, groups=groups),
        kl=_not_negative(mean_interval(drifts)),
        chosen_change=mean_interval(better, groups=groups),
        rejected_change=mean_interval(worse, groups=groups),
    )


def _ordered(
    ratios: NDArray[np.float64], pairs: PreferenceData, groups: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Log-ratios of the better and the worse answers [pair] and each pair's prompt; undecided pairs (probability one half) are left out."""
    probabilities = np.array([float(item.tensors["probabilities"]) for item in pairs.items])
    is_decided, is_swapped = probabilities != 0.5, probabilities < 0.5
    chosen, rejected = ratios[0::2], ratios[1::2]
    better, worse = np.where(is_swapped, rejected, chosen), np.where(is_swapped, chosen, rejected)
    return better[is_decided], worse[is_decided], [group for group, kept in zip(groups, is_decided, strict=True) if kept]


def _sample(
    trained: ModelSettings, records: Sequence[PreferencePair | UnpairedLabel], contract: ChatContract, samples: SampleSettings
) -> list[TokenSequence]:
    """Fresh answers as sequences whose generated tokens are supervised; the ids are those drawn, never made from text again."""
    from posttrain.generation import LocalGenerator

    generator = LocalGenerator.load(trained.path, trained.adapter, dtype=trained.dtype, batch_size=samples.batch_size)
    requests = [
        GenerationRequest(record.prompt, tuple(record.tools), SamplingSettings(samples.max_new_tokens, temperature=1.0, seed=number))
        for number, record in enumerate(records)
    ]
    sequences = []
    for request, answer in zip(requests, generator.generate(requests), strict=True):
        prompt = contract.encode(request.messages, tools=request.tools, add_generation_prompt=True)
        ids = np.concatenate((prompt, np.asarray(answer.token_ids, dtype=np.int32)))
        sequences.append(TokenSequence(ids, np.arange(len(ids)) >= len(prompt)))
    return sequences


def _not_negative(interval: Interval) -> Interval:
    """A KL is never below 0, and neither is its estimator k3: a bound below is cut off."""
    return replace(interval, low=max(interval.low, 0.0))


def _finite(interval: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in interval.items()}
