"""A reward model on labelled pairs: accuracy by slice, calibration before and after the temperature, warnings."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.chat import ChatContract
from posttrain.data.preference_sets import dialogue_key, prompt_key
from posttrain.errors import CheckFailed, ConfigError, DataError
from posttrain.metrics import (
    Interval,
    ReliabilityBin,
    calibration_error_by_chance,
    expected_calibration_error,
    fit_temperature,
    proportion_interval,
    reliability_bins,
)
from posttrain.records import PreferencePair
from posttrain.rewards.model import KEY_LENGTH, Calibration, RewardModel
from posttrain.rewards.probes import ProbeResult, length_correlation, run_probes

NUM_BINS = 10
FEW_TO_CALIBRATE = 30
ALL = "all"
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SliceResult:
    """Pairs of one slice: ``accuracy`` counts a pair as right when the better side's reward is strictly higher (RewardBench, Lambert et
    al. 2024, arXiv:2403.13787, section 4.1), with Wilson's interval, pairs of one prompt as a group.

    ``ties``: pairs with equal rewards (not right). ``undecided``: labels of exactly one half, which have no better side and are left out.
    ``longer``: how often the longer text gets the higher reward; ``label_longer``: how often it is labelled better.
    """

    pairs: int
    right: int
    ties: int
    undecided: int
    accuracy: Interval
    margin: float
    longer: float | None
    label_longer: float | None


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """On the test pairs: error and bins with T = 1 and with the fitted T, beside the error a perfect predictor shows by chance."""

    temperature: float
    low: float | None
    high: float | None
    fitted_on: int
    ece_before: float
    ece_after: float
    ece_by_chance: float
    ece_by_chance_95: float
    bins_before: tuple[ReliabilityBin, ...]
    bins_after: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class RewardEvaluation:
    """What ``evaluation.json`` holds. ``slices`` begin with ``all``; ``left_out``: rows a file lost before it was evaluated, by reason."""

    model: Mapping[str, Any]
    slices: Mapping[str, SliceResult]
    calibration: CalibrationResult | None
    probes: Sequence[ProbeResult] = ()
    length_correlation: Interval | None = None
    warnings: Sequence[str] = ()
    seeds: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """Plain JSON types; what is infinite is null."""
        found: dict[str, Any] = _finite(asdict(self))
        return found


def fitting_pairs(contract: ChatContract, pairs: Sequence[PreferencePair], limit: int) -> list[PreferencePair]:
    """The pairs whose both sides hold at most ``limit`` tokens; a longer one is left out whole, never cut on one side."""
    return [
        pair
        for pair in pairs
        if max(len(contract.encode_completion(pair.prompt, side, tools=pair.tools)) for side in (pair.chosen, pair.rejected)) <= limit
    ]


def fit_calibration(model: RewardModel, pairs: Sequence[PreferencePair]) -> Calibration | None:
    """Fit the temperature on pairs that were neither trained nor tested on; None where the rewards do not order them at all.

    Where every pair is ordered as labelled no finite temperature is likeliest; each of the n labels is then taken as (n + 1) / (n + 2)
    certain (Platt 1999, "Probabilistic outputs for support vector machines", section 2.2). The interval takes the pairs of one prompt as a
    group. Raises CheckFailed with figures when the
    rewards are constant, DataError for fewer than 2 pairs.
    """
    if len(pairs) < 2:
        raise DataError(f"a temperature cannot be fitted on {len(pairs)} pairs", hint="give a calibration file of at least 100")
    chosen, rejected, probabilities = _rewards(model, pairs)
    every = np.concatenate((chosen, rejected))
    deviation = float(every.std(ddof=1))
    if not (chosen != rejected).any() or is_constant(every):
        raise CheckFailed(
            f"{model.folder}: both sides of all {len(pairs)} calibration pairs get the same reward "
            f"(mean {every.mean():.6g}, standard deviation {deviation:.3g})",
            hint="the model learned nothing from its pairs: check the labels and the learning rate",
        )
    groups = [prompt_key(pair) for pair in pairs]
    found = fit_temperature(chosen - rejected, probabilities, groups=groups)
    if found.bounded and math.isfinite(found.value):
        found = fit_temperature(chosen - rejected, (len(pairs) * probabilities + 1) / (len(pairs) + 2), groups=groups)
    if not math.isfinite(found.value):
        return None
    return Calibration(
        temperature=found.value,
        low=found.low if math.isfinite(found.low) else None,
        high=found.high if math.isfinite(found.high) else None,
        mean=float(every.mean()),
        deviation=deviation,
        pairs=len(pairs),
        source=_pairs_hash(pairs),
        loss_before=found.loss_before,
        loss_after=found.loss_after,
    )


def evaluate_pairs(model: RewardModel, slices: Mapping[str, Sequence[PreferencePair]], *, probes: bool = True) -> RewardEvaluation:
    """Accuracy of every slice and of all pairs together, calibration over all pairs, and the probes on their answers.

    Raises DataError for no pairs and for a slice without a decided one, ConfigError for a slice called ``all``. A model with constant
    rewards is evaluated like any other, with a warning that gives the figures.
    """
    if ALL in slices:
        raise ConfigError(f"a slice cannot be called '{ALL}': that is the name of all slices together", hint="give it another name")
    for name, members in slices.items():
        if members and all(pair.probability == 0.5 for pair in members):
            raise DataError(f"slice '{name}': all {len(members)} labels are one half: no pair has a better side", hint="leave it out")
    pairs = [pair for members in slices.values() for pair in members]
    if not pairs:
        raise DataError("a reward model cannot be evaluated on no pairs", hint="give a file of preference pairs")
    chosen, rejected, probabilities = _rewards(model, pairs)
    lengths = np.array([len(_text(pair.chosen)) - len(_text(pair.rejected)) for pair in pairs], dtype=np.float64)
    groups = [prompt_key(pair) for pair in pairs]
    results = {ALL: _slice(chosen - rejected, probabilities, lengths, groups)}
    begin = 0
    for name, members in slices.items():
        inside = slice(begin, begin + len(members))
        begin += len(members)
        if members and len(slices) > 1:
            results[name] = _slice((chosen - rejected)[inside], probabilities[inside], lengths[inside], groups[inside])
    calibration = _calibration(model, chosen - rejected, probabilities)
    warnings = [*_warnings(model, np.concatenate((chosen, rejected)), results), *_doubts(model, calibration), *_seen(model, slices)]
    rewards = np.stack((chosen, rejected), axis=1)
    varied = not is_constant(rewards)
    probed: Sequence[ProbeResult] = ()
    if probes and varied:
        try:
            probed = run_probes(model, pairs, rewards=rewards)
        except ConfigError as error:
            warnings.append(f"not probed: {error.message}")
    return RewardEvaluation(
        model=dict(model.identity),
        slices=results,
        calibration=calibration,
        probes=probed,
        length_correlation=length_correlation(model, pairs, rewards=rewards) if varied else None,
        warnings=warnings,
    )


def _rewards(model: RewardModel, pairs: Sequence[PreferencePair]) -> tuple[Floats, Floats, Floats]:
    """Rewards of the chosen and of the rejected side, and P(chosen is better), all [pair]."""
    rewards = model.score_pairs(pairs)
    return rewards[:, 0], rewards[:, 1], np.array([pair.probability for pair in pairs])


def _slice(differences: Floats, probabilities: Floats, lengths: Floats, groups: Sequence[str]) -> SliceResult:
    decided = probabilities != 0.5
    signs = np.where(probabilities > 0.5, 1.0, -1.0)[decided]
    better, longer = (differences[decided] * signs), lengths[decided] * signs
    right, uneven = better > 0, longer != 0
    prefers_longer = np.sign(better) == np.sign(longer)
    return SliceResult(
        pairs=len(better),
        right=int(right.sum()),
        ties=int((better == 0).sum()),
        undecided=int((~decided).sum()),
        accuracy=proportion_interval(right.astype(float), groups=[group for group, used in zip(groups, decided, strict=True) if used]),
        margin=float(better.mean()),
        longer=float(prefers_longer[uneven].mean()) if uneven.any() else None,
        label_longer=float((longer > 0)[uneven].mean()) if uneven.any() else None,
    )


def _calibration(model: RewardModel, differences: Floats, probabilities: Floats) -> CalibrationResult | None:
    """Confidence is P(the side with the higher reward is better), so .5 to 1; a tie is one half of each."""
    if model.calibration is None:
        return None
    outcome = np.where(differences == 0, 0.5, np.where(differences > 0, probabilities, 1 - probabilities))

    def stated(temperature: float) -> Floats:
        return np.asarray(1 / (1 + np.exp(-np.minimum(np.abs(differences) / temperature, 700.0))))

    before, after = stated(1.0), stated(model.temperature)
    mean, high = calibration_error_by_chance(after, num_bins=2 * NUM_BINS)  # half of the bins lie below .5 and stay empty
    return CalibrationResult(
        temperature=model.temperature,
        low=model.calibration.low,
        high=model.calibration.high,
        fitted_on=model.calibration.pairs,
        ece_before=expected_calibration_error(before, outcome, num_bins=2 * NUM_BINS),
        ece_after=expected_calibration_error(after, outcome, num_bins=2 * NUM_BINS),
        ece_by_chance=mean,
        ece_by_chance_95=high,
        bins_before=tuple(reliability_bins(before, outcome, num_bins=NUM_BINS, low=0.5)),
        bins_after=tuple(reliability_bins(after, outcome, num_bins=NUM_BINS, low=0.5)),
    )


def _warnings(model: RewardModel, rewards: Floats, slices: Mapping[str, SliceResult]) -> list[str]:
    found, every = [], slices[ALL]
    if is_constant(rewards):
        found.append(
            f"constant rewards: all {len(rewards)} texts get {rewards.mean():.6g} (standard deviation {rewards.std():.2g}); "
            "the model tells nothing apart"
        )
    elif every.ties > 0.05 * every.pairs:
        found.append(f"{every.ties} of {every.pairs} pairs are ties: their sides get the same reward to the last bit")
    for name, result in slices.items():
        if result.accuracy.low <= 0.5:
            interval = f"{result.accuracy.value:.3f} [{result.accuracy.low:.3f}, {result.accuracy.high:.3f}]"
            found.append(f"slice '{name}': accuracy {interval} over {result.pairs} pairs is not above chance")
    if model.calibration is None:
        found.append("no temperature: differences of rewards are not log-odds")
    return found


def _doubts(model: RewardModel, measured: CalibrationResult | None) -> list[str]:
    """Why the temperature is not to be trusted: fitted on few pairs, without an end to its interval, or worse than none on these pairs."""
    if measured is None:
        return []
    found = []
    low, high = ("unbounded" if end is None else f"{end:.3g}" for end in (measured.low, measured.high))
    if measured.fitted_on < FEW_TO_CALIBRATE or None in (measured.low, measured.high):
        found.append(
            f"the temperature {measured.temperature:.3g} [{low}, {high}] was fitted on {measured.fitted_on} pairs: P(better) is a guess; "
            "calibrate on at least 100"
        )
    if measured.ece_after > max(measured.ece_before, measured.ece_by_chance_95):
        found.append(
            f"the temperature makes calibration worse here: error {measured.ece_before:.3f} without it, {measured.ece_after:.3f} with it "
            f"(by chance at most {measured.ece_by_chance_95:.3f})"
        )
    return found


def _seen(model: RewardModel, slices: Mapping[str, Sequence[PreferencePair]]) -> list[str]:
    """A warning for slices with pairs of dialogues the model was trained or its temperature was fitted on."""
    told = {"training": "the model was trained on", "calibration": "the temperature was fitted on"}
    return [
        f"slice '{name}': {both} of {len(pairs)} pairs are of dialogues {told[use]}: its figures say nothing about other pairs"
        for name, pairs in slices.items()
        for use, keys in model.seen.items()
        if (both := sum(dialogue_key(pair)[:KEY_LENGTH] in keys for pair in pairs))
    ]


def _pairs_hash(pairs: Sequence[PreferencePair]) -> str:
    return hashlib.sha256("".join(sorted(map(prompt_key, pairs))).encode()).hexdigest()


def is_constant(rewards: Floats) -> bool:
    """Whether rewards differ by no more than float32 rounds."""
    return float(rewards.std()) <= 1e-6 * max(1.0, abs(float(rewards.mean())))


def _text(turns: Sequence[Any]) -> str:
    return "".join(turn.content for turn in turns)


def _finite(value: Any) -> Any:
    """The value with floats that JSON has no word for (infinite, NaN) as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
