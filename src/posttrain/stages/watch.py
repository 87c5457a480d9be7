"""What is watched while a policy is aligned, and the failures that the numbers name.

Every few steps: how far known good and bad answers have moved from where they started, on training pairs and on held-out ones; and on
fresh samples, the distance to the reference, length, refusals and format. All numbers go into the run's history; the warnings are a
function of that history, so a run that was killed and resumed gives the same ones.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from jsonschema import SchemaError
from jsonschema.validators import validator_for
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from posttrain.chat import ChatContract
from posttrain.config import Config
from posttrain.data import looks_like_refusal
from posttrain.errors import ConfigError
from posttrain.generation import LocalGenerator
from posttrain.models import Policy, completion_logprobs
from posttrain.records import GenerationRequest, PreferencePair, SamplingSettings, TokenSequence, UnpairedLabel
from posttrain.stages.pairs import PreferenceData
from posttrain.training import TrainingItem, starting_policy

CHOSEN_FALLING = "chosen likelihood falling"
OVERFITTING = "preference overfitting"
STALE = "stale, off-policy pairs"
KL_RUNAWAY = "KL runaway"
Numbers = dict[str, float]
Row = PreferencePair | UnpairedLabel


class WatchSettings(Config):
    """What is watched, how often, and from where on it is called a failure. A warning never stops a run."""

    every_steps: int = Field(default=25, ge=1)
    """Watch after every so many steps, and after the last."""
    pairs: int = Field(default=32, ge=0)
    """How many training rows, and how many held-out ones, are scored each time; 0: none."""
    samples: int = Field(default=8, ge=0)
    """Fresh answers drawn each time, to held-out prompts where there are some; 0: none."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest fresh answer, tokens."""
    json_schema: str | None = None
    """A JSON schema file: the share of fresh answers that satisfy it is watched too."""
    chosen_drop: float = Field(default=0.05, gt=0)
    """Fall of the chosen answers' log-likelihood, nats a token, from which on it is called 'chosen likelihood falling'."""
    overfit_gap: float = Field(default=0.2, gt=0, lt=1)
    """Pair accuracy on training rows less that on held-out ones from which on it is called 'preference overfitting'."""
    stale_gap: float = Field(default=1.0, gt=0)
    """How much less likely than its own samples a policy may find the pairs, nats a token, before they are called stale."""
    max_kl: float = Field(default=20.0, gt=0)
    """KL to the reference, nats an answer, above which it is called 'KL runaway'."""


@dataclass(frozen=True, slots=True)
class WatchedAnswers:
    """Answers with their log-probability before the first update: ``start`` float32 [sequence], ``good`` bool [sequence].

    ``is_paired``: chosen and rejected take turns.
    """

    sequences: Sequence[TokenSequence]
    good: NDArray[np.bool_]
    start: Float[Tensor, " sequence"]
    is_paired: bool

    def measure(self, policy: Policy, *, max_tokens: int) -> Numbers:
        """Change of log-likelihood since the start, and for pairs the margin and the share whose margin is above zero (a tie is a half).

        ``*_change`` in nats an answer with its standard error ``*_change_error``, ``*_change_per_token`` in nats a token.
        """
        rows = completion_logprobs(policy, self.sequences, max_tokens=max_tokens)
        change = np.array([float(row.double().sum()) for row in rows]) - self.start.double().numpy()
        lengths = np.array([sequence.num_supervised for sequence in self.sequences])
        numbers: Numbers = {}
        for name, side in (("chosen", self.good), ("rejected", ~self.good)):
            if side.any():
                numbers |= {
                    f"{name}_change": float(change[side].mean()),
                    f"{name}_change_error": _standard_error(change[side]),
                    f"{name}_change_per_token": float(change[side].sum() / lengths[side].sum()),
                }
        if self.is_paired:
            margins = change[0::2] - change[1::2]
            numbers |= {
                "margin": float(margins.mean()),
                "accuracy": float((np.sign(margins) + 1).mean() / 2),
                "num_pairs": float(len(margins)),
            }
        return numbers


@dataclass(frozen=True, slots=True)
class Watch:
    """The evaluation handed to the training loop: a call measures the policy as it is now."""

    settings: WatchSettings
    contract: ChatContract
    training: WatchedAnswers | None
    held_out: WatchedAnswers | None
    requests: Sequence[GenerationRequest]
    seed: int
    max_tokens: int = 4096
    validator: Any = None
    """Of the answers' format, see :func:`format_validator`."""

    def __call__(self, policy: Policy) -> Numbers:
        """Numbers by name: those of :meth:`WatchedAnswers.measure` (``held_out_`` before the held-out ones) and of fresh samples."""
        numbers: Numbers = {}
        if self.training:
            numbers |= self.training.measure(policy, max_tokens=self.max_tokens)
        if self.held_out:
            found = self.held_out.measure(policy, max_tokens=self.max_tokens)
            numbers |= {f"held_out_{name}": value for name, value in found.items()}
        return numbers | (self._samples(policy) if self.requests else {})

    def _samples(self, policy: Policy) -> Numbers:
        """Of fresh samples: KL to the reference, nats an answer, and its error; length, share that ended, refusals, format.

        ``kl`` is the mean of log p - log p_ref (k1 of Schulman 2020, "Approximating KL divergence"); ``kl_k3`` the mean of the sum over
        tokens of r - 1 - log r, r = p_ref / p (k3), which is never negative and varies less.
        """
        drawn = draw_samples(policy, self.contract, self.requests)
        sequences = [sequence for _, sequence, _ in drawn]
        now = completion_logprobs(policy, sequences, max_tokens=self.max_tokens)
        with starting_policy(policy, seed=self.seed) as start:
            reference = completion_logprobs(start, sequences, max_tokens=self.max_tokens)
        differences = [b.double() - a.double() for a, b in zip(now, reference, strict=True)]  # log p_ref - log p, a token each
        ratios = np.array([-float(row.sum()) for row in differences])
        tokens = sum(sequence.num_supervised for sequence in sequences)
        numbers = {
            "kl": float(ratios.mean()),
            "kl_error": _standard_error(ratios),
            "kl_k3": float(np.mean([float((row.expm1() - row).sum()) for row in differences])),
            "kl_per_token": float(ratios.sum() / tokens),
            "length": tokens / len(sequences),
            "ended": float(np.mean([ended for _, _, ended in drawn])),
            "refusals": float(np.mean([looks_like_refusal(text) for text, _, _ in drawn])),
        }
        if self.validator is not None:
            numbers["valid_format"] = float(np.mean([_satisfies(self.validator, text) for text, _, _ in drawn]))
        return numbers


@dataclass(frozen=True, slots=True)
class RunWarning:
    """A failure that the numbers show: ``name`` is its fixed name, ``step`` where it was first seen (0: before training)."""

    name: str
    step: int
    message: str
    figures: Mapping[str, float] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"name": self.name, "step": self.step, "message": self.message, "figures": dict(self.figures)}


def find_warnings(history: Sequence[Mapping[str, Any]], settings: WatchSettings) -> list[RunWarning]:
    """The failures a history shows, each once, where it was first seen. A mean or share must be clear of chance (95 %)."""
    found: dict[str, RunWarning] = {}
    for entry in history:
        numbers = {name.removeprefix("watch/"): value for name, value in entry["evaluations"].items() if name.startswith("watch/")}
        for name, message, used in _claims(numbers, settings):
            figures = {key: numbers[key] for key in used}
            found.setdefault(name, RunWarning(name, int(entry["step"]), message, figures))
    return list(found.values())


def _claims(numbers: Mapping[str, float], settings: WatchSettings) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(name, message, names of the figures) of each failure one set of numbers shows."""
    per_token = numbers.get("chosen_change_per_token", 0.0)
    if per_token < -settings.chosen_drop and numbers["chosen_change"] + 1.96 * numbers["chosen_change_error"] < 0:
        text = (
            f"{CHOSEN_FALLING}: the chosen answers have lost {-per_token:.3f} nats a token since the start (rejected: "
            f"{numbers.get('rejected_change_per_token', math.nan):+.3f}); a margin that grows so pushes both down. Lower the learning "
            "rate or raise beta, then add a likelihood term (orpo) or fresher pairs"
        )
        yield CHOSEN_FALLING, text, ("chosen_change", "chosen_change_error", "chosen_change_per_token")
    if "accuracy" in numbers and "held_out_accuracy" in numbers:
        seen, unseen = numbers["accuracy"], numbers["held_out_accuracy"]
        error = math.sqrt(sum(_share_variance(numbers[f"{part}accuracy"], numbers[f"{part}num_pairs"]) for part in ("", "held_out_")))
        if seen - unseen > max(settings.overfit_gap, 1.96 * error):
            text = (
                f"{OVERFITTING}: {seen:.0%} of training pairs are ranked right and {unseen:.0%} of held-out ones. Fewer epochs, a lower "
                "learning rate, a higher beta or more pairs"
            )
            yield OVERFITTING, text, ("accuracy", "num_pairs", "held_out_accuracy", "held_out_num_pairs")
    if numbers.get("kl", 0.0) - 1.96 * numbers.get("kl_error", 0.0) > settings.max_kl:
        text = (
            f"{KL_RUNAWAY}: fresh answers are {numbers['kl']:.1f} nats from the reference (limit {settings.max_kl:g}). Lower the learning "
            "rate, raise beta or stop earlier"
        )
        yield KL_RUNAWAY, text, ("kl", "kl_error")


def starting_fit(policy: Policy, contract: ChatContract, watch: Watch) -> Numbers:
    """How likely the starting policy finds the pairs beside its own samples: mean log-likelihood, nats a token, of each.

    ``chosen``, ``rejected``, ``sampled``, ``gap`` (sampled less the pairs') and its standard error over answers. To be called before the
    first update. Empty when nothing or no sample is watched.
    """
    answers = watch.training or watch.held_out
    if answers is None or not watch.requests:
        return {}
    lengths = np.array([sequence.num_supervised for sequence in answers.sequences])
    known = answers.start.double().numpy() / lengths
    sequences = [sequence for _, sequence, _ in draw_samples(policy, contract, watch.requests)]
    own = np.array([float(row.double().mean()) for row in completion_logprobs(policy, sequences, max_tokens=watch.max_tokens)])
    numbers = {name: float(known[side].mean()) for name, side in (("chosen", answers.good), ("rejected", ~answers.good)) if side.any()}
    gap = float(own.mean() - known.mean())
    return numbers | {
        "sampled": float(own.mean()),
        "gap": gap,
        "gap_error": math.hypot(_standard_error(own), _standard_error(known)),
    }


def made_between(rows: Sequence[Row]) -> tuple[str, str] | None:
    """First and last ``created`` in the rows' metadata, as written there (ISO dates sort); None where no row says it."""
    dates = sorted(str(row.metadata["created"]) for row in rows if row.metadata.get("created"))
    return (dates[0], dates[-1]) if dates else None


def stale_warning(fit: Mapping[str, float], settings: WatchSettings, *, made: tuple[str, str] | None = None) -> RunWarning | None:
    """The warning of pairs far off the policy that is to learn from them, or None. ``made``: when the pairs were (see above)."""
    if not fit or fit["gap"] - 1.96 * fit["gap_error"] < settings.stale_gap:
        return None
    sides = ", ".join(f"{name} {fit[name]:.2f}" for name in ("chosen", "rejected") if name in fit)
    age = f" (made between {made[0]} and {made[1]})" if made else ""
    text = (
        f"{STALE}: the starting policy gives the pairs{age} {sides} nats a token and its own samples {fit['sampled']:.2f}: it would seldom "
        "write these answers, so ranking them says little about those it does. Collect pairs from this policy, or fine-tune on the chosen "
        "answers first"
    )
    return RunWarning(STALE, 0, text, dict(fit))


def draw_samples(policy: Policy, contract: ChatContract, requests: Sequence[GenerationRequest]) -> list[tuple[str, TokenSequence, bool]]:
    """(text, prompt and answer as ids with the answer supervised, whether it ended) of each request, from the weights as they are."""
    with policy.sampling() as model:
        answers = LocalGenerator(model, contract, batch_size=min(16, len(requests))).generate(requests)
    drawn = []
    for request, answer in zip(requests, answers, strict=True):
        prompt = contract.encode(request.messages, tools=request.tools, add_generation_prompt=True)
        ids = np.concatenate((prompt, np.array(answer.token_ids, np.int32)))
        drawn.append((answer.text, TokenSequence(ids, np.arange(len(ids)) >= len(prompt)), answer.finish_reason == "stop"))
    return drawn


def watched_rows(data: PreferenceData, num: int, *, seed: int) -> list[int]:
    """Positions of at most ``num`` items whose label says which answer is better, drawn once and kept in file order."""
    decided = [i for i, item in enumerate(data.items) if "probabilities" not in item.tensors or float(item.tensors["probabilities"]) != 0.5]
    drawn = np.random.default_rng([seed, 1]).permutation(len(decided))[:num]
    return sorted(decided[place] for place in drawn)


def build_watched(data: PreferenceData, positions: Sequence[int], start: Float[Tensor, " sequence"]) -> WatchedAnswers | None:
    """The answers of the items at ``positions``; ``start``: their log-probabilities under the starting policy, sequence by sequence.

    Of a pair the better answer comes first, whichever column held it (a label below .5 says that the rejected one is better).
    """
    if not positions:
        return None
    items = [data.items[position] for position in positions]
    is_paired = len(items[0].sequences) == 2
    sequences = [sequence for item in items for sequence in item.sequences]
    if not is_paired:
        return WatchedAnswers(sequences, np.array([bool(item.tensors["labels"]) for item in items]), start, False)
    order = [2 * place + side for place, item in enumerate(items) for side in ((0, 1) if _chosen_is_better(item) else (1, 0))]
    return WatchedAnswers([sequences[i] for i in order], np.arange(len(order)) % 2 == 0, start[order], True)


def _chosen_is_better(item: TrainingItem) -> bool:
    return float(item.tensors["probabilities"]) > 0.5


def sample_requests(rows: Sequence[Row], settings: WatchSettings, *, seed: int) -> list[GenerationRequest]:
    """The prompts fresh answers are drawn to, the same each time, at temperature 1 and with seeds of their own."""
    prompts = list({repr((row.prompt, row.tools)): row for row in rows}.values())
    order = np.random.default_rng([seed, 2]).permutation(len(prompts))[: settings.samples]
    return [
        GenerationRequest(
            prompts[number].prompt,
            prompts[number].tools,
            SamplingSettings(max_new_tokens=settings.max_new_tokens, temperature=1.0, seed=seed * 1000 + place),
        )
        for place, number in enumerate(order)
    ]


def format_validator(path: str | None) -> Any:
    """The validator of ``watch.json_schema``; None without one. Raises ConfigError for a file that holds no valid schema."""
    if path is None:
        return None
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a JSON schema is an object, not {type(content).__name__}")
        validator = validator_for(content)
        validator.check_schema(content)
    except (OSError, ValueError) as error:
        raise ConfigError(f"watch.json_schema: {path} cannot be read: {error}", hint="give a JSON schema file") from None
    except SchemaError as error:
        raise ConfigError(f"watch.json_schema: {path}: {error.json_path}: {error.message}", hint="mend the schema") from None
    return validator(content)


def _satisfies(validator: Any, text: str) -> bool:
    try:
        return bool(validator.is_valid(json.loads(text)))
    except ValueError:
        return False


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _share_variance(share: float, count: float) -> float:
    """Variance of a share with two successes and two failures added (Agresti and Coull 1998), so that 0 and 1 are not certain."""
    adjusted = (share * count + 2) / (count + 4)
    return adjusted * (1 - adjusted) / (count + 4)
