"""A reward model from a file of pairs: train, calibrate on a split of its own, evaluate by slice. Reads top to bottom."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from posttrain.chat import CONTRACT_FILE, ChatContract
from posttrain.config import Config
from posttrain.config.files import write_json
from posttrain.data import DataCard, check_consent, load_card
from posttrain.data.cards import card_path
from posttrain.data.preference_sets import dialogue_key
from posttrain.errors import CheckFailed, DataError
from posttrain.lineage import LineageStore, RunLogger
from posttrain.models import Forest, ModelOptions, ModelSettings, ScalarModel, find_model
from posttrain.objectives import LossOutput, apply_objective, objective_settings
from posttrain.records import PreferencePair
from posttrain.rewards import (
    CALIBRATION_FILE,
    RewardEnsemble,
    RewardEvaluation,
    RewardModel,
    evaluate_pairs,
    fit_calibration,
    fitting_pairs,
)
from posttrain.rewards.evaluation import ALL
from posttrain.rewards.model import KEY_LENGTH, SEEN_FILE
from posttrain.stages.base import STAGES, Progress, Quiet, Stage, StageResult
from posttrain.stages.pairs import PreferenceData, PreferenceRules, load_pairs
from posttrain.stages.preference_files import PairFile, read_preferences, said_left_out
from posttrain.stages.setup import (
    check_contracts,
    check_dropout,
    check_target,
    origins,
    planned_tokens,
    set_aside,
    stage_settings,
    token_limit,
    with_learning_rate,
)
from posttrain.training import Microbatch, StepLoss, StepReport, TrainingItem, TrainingSettings, TrainResult, World, open_world, train

FULL_LEARNING_RATE = 1e-5
LORA_LEARNING_RATE = 1e-4
EVALUATION_FILE = "evaluation.json"
Share = Annotated[float, Field(ge=0, lt=0.5)]


class RewardModelConfig(ModelOptions):
    """What a recipe says under ``reward_model:``; the model's options (``lora``, ``dtype``, ...) stand at the same level."""

    data: str
    """A file of pairs, in any shape `posttrain check` reads."""
    calibration: str | Share = 0.1
    """A file of pairs to fit the temperature on, used for nothing else; or the share of ``data``'s prompts set aside for it (0: none)."""
    test: str | Share | dict[str, str] = 0.1
    """Pairs to evaluate on: a file, a file a slice by name, or the share of ``data``'s prompts set aside. Published sets as they are."""
    objective: SerializeAsAny[Config] = Field(default_factory=objective_settings("bradley_terry"))
    """``{name: bradley_terry, center: 0.01}``: the loss and how strongly rewards are held around zero."""
    seeds: tuple[int, ...] = ()
    """Further seeds: each trains a model of its own beside the first, and the spread of their accuracies is reported."""
    probes: bool = True
    """Measure what length, flattery and markdown do to the reward of the test answers."""
    max_tokens: int | None = Field(default=None, ge=2)
    """Longest side of a pair in tokens; left out: as many as the model's positions."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """A row that cannot be read: stop and name it, or set it aside and say how many were."""
    rejects: str | None = None
    """Folder for rows that are set aside; left out: beside their file, as <file>.rejects.jsonl, or in a recipe the stage's folder."""
    on_too_long: Literal["stop", "drop"] = "stop"
    """A pair with a side over ``max_tokens``: stop and name it, or leave the whole pair out and say how many were. No side is ever cut."""
    training: TrainingSettings
    """The engine's settings; ``learning_rate`` is 1e-4 with an adapter and 1e-5 in full when left out."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        values = with_learning_rate(values, adapter=LORA_LEARNING_RATE, full=FULL_LEARNING_RATE)
        if isinstance(values, dict) and isinstance(given := values.get("objective"), Mapping | str):
            given = {"name": given} if isinstance(given, str) else given
            values = {**values, "objective": objective_settings("bradley_terry").model_validate(given)}
        return values

    @model_validator(mode="after")
    def _check(self) -> "RewardModelConfig":
        check_dropout(self, self.training)
        if self.adapter is not None or self.quantization is not None:
            raise ValueError(
                "a reward model is saved as one plain folder: merge 'adapter' into the model first and leave 'quantization' out"
            )
        if len({self.training.seed, *self.seeds}) != 1 + len(self.seeds):
            raise ValueError(f"'seeds' {list(self.seeds)} repeats a seed (training.seed is {self.training.seed})")
        if ALL in self.test_files:
            raise ValueError(f"'test' has a slice called '{ALL}', which is the name of all slices together: give it another name")
        return self

    @property
    def test_files(self) -> dict[str, str]:
        """The test files by slice; none where a share of ``data`` is set aside."""
        return {"test": self.test} if isinstance(self.test, str) else self.test if isinstance(self.test, dict) else {}


@dataclass(frozen=True, slots=True)
class Splits:
    """Items to train on, pairs to calibrate on and to test on by slice; no prompt is in two of them.

    ``trained_on``: the items' dialogues. ``counts``: rows by fate. ``left_out``: what calibration and each test slice lost (ties,
    unreadable, too long), by reason.
    """

    items: list[TrainingItem]
    trained_on: set[str]
    calibration: list[PreferencePair]
    test: dict[str, list[PreferencePair]]
    counts: dict[str, float]
    left_out: dict[str, dict[str, int]]


def run_reward_model(
    config: RewardModelConfig,
    model_path: str | Path,
    run_dir: str | Path,
    *,
    lineage: LineageStore | None = None,
    parents: Sequence[str] = (),
    progress: Progress | None = None,
    logger: RunLogger | None = None,
) -> StageResult:
    """Train a reward model from ``model_path``; write ``run_dir/model`` (with ``calibration.json``) and ``run_dir/evaluation.json``.

    The folder is a plain sequence classifier that transformers opens, adapters merged. Killed and called again it goes on from its last
    checkpoint and ends in the same bits. Raises DataError for rows that cannot train fairly, CheckFailed for data without consent, for a
    prompt in two splits and for constant rewards, ContractError and TrainingError as :func:`posttrain.training.train` does.
    """
    out, folder = Path(run_dir), find_model(model_path)
    with open_world() as world:
        show = progress if progress and world.is_main else Quiet()
        cards = _consented(config)
        contract = ChatContract.load(folder)
        check_contracts(contract, [folder, out])
        check_target(out / "model")
        splits = load_splits(config, contract, folder)
        show.say(_describe(splits) + set_aside(splits.counts, config.data, config.rejects))
        if world.is_main:
            write_json(out / CONTRACT_FILE, contract.record())
        if logger and world.is_main:
            logger.log_params(config.dump())
        run = _Run(config, folder, contract, splits, world, show, logger)
        trained = _train(run, out, config.training.seed)
        for seed in config.seeds:
            show.say(f"seed {seed}")
            _train(replace(run, logger=None), out / "seeds" / str(seed), seed)
        metrics, id_ = splits.counts | _summary(trained), ""
        if world.is_main:
            evaluation = _evaluate(run, out)
            metrics |= _figures(evaluation)
            write_json(out / EVALUATION_FILE, evaluation.dump() if evaluation else {})
            write_json(out / "result.json", {"settings": config.dump(), "metrics": metrics, "history": trained.history})
            if lineage:
                sources = [
                    *(parents or origins(lineage, folder, cards)),
                    *stage_settings(lineage, "reward_model", config, contract, seed=config.training.seed),
                ]
                content = {"name": "reward model", "stage": "reward_model", "metrics": metrics}
                id_ = lineage.put("model", content, parents=sources, files=[out / "model"])
        world.wait()
    return StageResult(out / "model", None, metrics, trained.history, id_)


def reward_step(objective: Config) -> Any:
    """The loss of a micro-batch of pairs: rewards at the last tokens, chosen and rejected in turn."""

    def loss(model: ScalarModel, forest: Forest, microbatch: Microbatch) -> LossOutput:
        rewards = model.rewards(forest)
        named = {name: microbatch.concat(name) for name in ("margins", "probabilities")}
        return apply_objective(objective, {"chosen_rewards": rewards[0::2], "rejected_rewards": rewards[1::2], **named})

    return loss


def load_splits(config: RewardModelConfig, contract: ChatContract, model: Path) -> Splits:
    """Read the pairs, set shares of the prompts aside by the hash of their first user turn, read the other files.

    Raises DataError for rows :func:`posttrain.stages.pairs.load_pairs` refuses, for negative margins and for what could not be evaluated
    after training (pairs longer than the model's context, a slice without a decided pair); CheckFailed for a prompt in two splits.
    """
    rules = PreferenceRules(token_limit(config.max_tokens, model), config.on_bad_row, config.on_too_long, rejects=config.rejects)
    data = load_pairs(config.data, contract, rules)
    if negative := [item.rows[0] for item in data.items if float(item.tensors["margins"]) < 0]:
        raise DataError(f"{config.data}: rows {negative[:10]} have a margin below 0", hint="swap chosen and rejected, or drop the margin")
    items, calibration, held_out, trained_on = _set_aside(config, data)
    files = dict[str, PairFile]()
    if isinstance(config.calibration, str):
        files["calibration"] = _read(config, config.calibration, contract, token_limit(None, model))
        calibration = files["calibration"].pairs
    if config.calibration and len(calibration) < 2:
        raise DataError(f"{len(calibration)} pairs to calibrate on are too few", hint="give a file of at least 100, or calibration: 0")
    test = {"held out": held_out} if held_out else {}
    for name, path in config.test_files.items():
        files[f"test slice '{name}'"] = _read(config, path, contract, token_limit(None, model))
        test[name] = files[f"test slice '{name}'"].pairs
    for name, pairs in test.items():
        if pairs and all(pair.probability == 0.5 for pair in pairs):
            raise DataError(f"test slice '{name}': all {len(pairs)} labels are one half: no pair has a better side", hint="leave it out")
    check_splits({config.data: trained_on, "calibration": set(map(dialogue_key, calibration))}, test)
    left_out = {name: found.left_out for name, found in files.items() if found.left_out}
    lost = {name: sum(reasons.values()) for name, reasons in left_out.items()}
    counts = {
        "train_pairs": len(items),
        "calibration_pairs": len(calibration),
        "calibration_left_out": lost.get("calibration", 0),
        "test_pairs": sum(map(len, test.values())),
        "test_left_out": sum(lost.values()) - lost.get("calibration", 0),
    }
    return Splits(items, trained_on, calibration, test, data.counts | {name: float(value) for name, value in counts.items()}, left_out)


def _set_aside(
    config: RewardModelConfig, data: PreferenceData
) -> tuple[list[TrainingItem], list[PreferencePair], list[PreferencePair], set[str]]:
    """Items to train on, the pairs set aside for calibration and for the test, and the keys of what is trained on."""
    aside = config.calibration if isinstance(config.calibration, float) else 0.0
    tested = config.test if isinstance(config.test, float) else 0.0
    items, trained_on = list[TrainingItem](), set[str]()
    calibration, test = list[PreferencePair](), list[PreferencePair]()
    for item, pair in zip(data.items, data.records, strict=True):
        assert isinstance(pair, PreferencePair)
        key = dialogue_key(pair)
        place = int(key[:8], 16) / 2**32
        if place < aside:
            calibration.append(pair)
        elif place < aside + tested:
            test.append(pair)
        else:
            items.append(item)
            trained_on.add(key)
    if not items:
        raise DataError(f"{config.data}: all pairs were set aside, none is left to train on", hint="give more prompts, or smaller shares")
    return items, calibration, test, trained_on


def _read(config: RewardModelConfig, path: str, contract: ChatContract, limit: int | None) -> PairFile:
    """A calibration or test file; pairs longer than the model's context stop the run or are left out whole, as the config says."""
    found = read_preferences(path, on_bad_row=config.on_bad_row, rejects=config.rejects)
    kept = found.pairs if limit is None else fitting_pairs(contract, found.pairs, limit)
    if not (lost := len(found.pairs) - len(kept)):
        return found
    if config.on_too_long == "stop":
        raise DataError(
            f"{path}: {lost} of {len(found.pairs)} pairs are longer than {limit} tokens",
            hint="leave them out with on_too_long: drop; no side is ever cut",
        )
    return PairFile(kept, {**found.left_out, f"longer than {limit} tokens": lost})


def _consented(config: RewardModelConfig) -> dict[str, DataCard]:
    """The cards of all files, each with consent. A published set to test on need not have one; what trains or calibrates must."""
    needed = [config.data, *([config.calibration] if isinstance(config.calibration, str) else [])]
    given = [path for path in config.test_files.values() if card_path(path).is_file()]
    cards = {path: load_card(path) for path in (*needed, *given)}
    for card in cards.values():
        check_consent(card)
    return cards


def check_splits(used: Mapping[str, set[str]], test: Mapping[str, Sequence[PreferencePair]]) -> None:
    """Raise CheckFailed, with figures, when a prompt is in more than one split: its figure would not be of unseen prompts.

    Prompts are told apart by their first user turn, so that a dialogue and its continuation are one.
    """
    every = [*used.items(), *((f"test slice '{name}'", set(map(dialogue_key, pairs))) for name, pairs in test.items())]
    for position, (name, prompts) in enumerate(every[:2]):
        for other, others in every[position + 1 :]:
            if both := prompts & others:
                raise CheckFailed(
                    f"{len(both)} of the {len(others)} prompts of {other} are also in {name}",
                    hint="split by first user turn: every pair that begins with it belongs to one of training, calibration and test",
                )


@dataclass(frozen=True, slots=True)
class _Run:
    config: RewardModelConfig
    folder: Path
    contract: ChatContract
    splits: Splits
    world: World
    show: Progress
    logger: RunLogger | None


def _train(run: _Run, out: Path, seed: int) -> TrainResult:
    """Train one model with ``seed`` and save it as ``out/model``."""
    config, world = run.config, run.world
    training = config.training.model_copy(update={"seed": seed})
    settings = ModelSettings(path=str(run.folder), **{name: getattr(config, name) for name in ModelOptions.model_fields})
    model = ScalarModel.load(settings, seed=seed, device=world.device, num_tokens=planned_tokens(run.splits.items, training))

    def on_step(report: StepReport) -> None:
        accuracy = report.metrics["rewards/accuracy"]
        run.show.advance(report.step, report.num_steps, f"loss {report.loss:.3f}  accuracy {accuracy:.2f}")
        if run.logger:
            run.logger.log_metrics(report.numbers(), report.step)

    record, objective = run.contract.record(), StepLoss(reward_step(config.objective), settings={"objective": config.objective.dump()})
    trained = train(model, run.splits.items, objective, training, run_dir=out, contract_record=record, on_step=on_step)
    if world.is_main:
        model.save(out / "model", run.contract)
        calibration = set(map(dialogue_key, run.splits.calibration))
        seen = {"training": run.splits.trained_on, "calibration": calibration}
        write_json(out / "model" / SEEN_FILE, {use: sorted(key[:KEY_LENGTH] for key in keys) for use, keys in seen.items()})
    world.wait()
    return trained


def _evaluate(run: _Run, out: Path) -> RewardEvaluation | None:
    """Calibrate and evaluate every seed's model from its folder, as others will use it; None without test pairs."""
    folders = {run.config.training.seed: out / "model", **{seed: out / "seeds" / str(seed) / "model" for seed in run.config.seeds}}
    models = {seed: _calibrated(run, folder) for seed, folder in folders.items()}
    model = models[run.config.training.seed]
    test = run.splits.test
    if not any(test.values()):
        return None
    evaluation = replace(evaluate_pairs(model, test, probes=run.config.probes), left_out=run.splits.left_out)
    for warning in evaluation.warnings:
        run.show.say(f"warning: {warning}")
    if len(models) == 1:
        return evaluation
    accuracies = {seed: evaluate_pairs(one, test, probes=False).slices[ALL].accuracy.value for seed, one in models.items()}
    found = list(accuracies.values())
    spread: dict[str, Any] = {"accuracy": accuracies, "mean": fmean(found), "deviation": stdev(found)}
    if all(one.calibration for one in models.values()):
        spread["disagreement"] = asdict(
            RewardEnsemble(list(models.values())).disagreement([pair for part in test.values() for pair in part])
        )
    return replace(evaluation, seeds=spread)


def _calibrated(run: _Run, folder: Path) -> RewardModel:
    """The saved model with the temperature of the calibration split, where there is one to be had."""
    model = RewardModel.load(folder, dtype=run.config.dtype, batch_tokens=run.config.training.max_tokens_per_microbatch)
    pairs = run.splits.calibration
    if not pairs:
        return model
    calibration = fit_calibration(model, pairs)
    if calibration is None:
        run.show.say(f"warning: {folder} does not order the {len(pairs)} calibration pairs: no temperature fits")
        return model
    calibration.save(folder / CALIBRATION_FILE)
    model.calibration = calibration
    return model


def _describe(splits: Splits) -> str:
    counts = splits.counts
    text = f"{len(splits.items)} pairs to train on, {len(splits.calibration)} to calibrate on, {int(counts['test_pairs'])} to test on"
    reasons = {"rows_skipped": "unreadable", "rows_not_encodable": "without a difference in tokens", "rows_too_long": "too long"}
    left_out = [f"{int(counts[name])} {reason}" for name, reason in reasons.items() if counts[name]]
    text += f"; left out: {', '.join(left_out)}" if left_out else ""
    return text + "".join(f"; {name}: left out {said_left_out(lost)}" for name, lost in splits.left_out.items())


def _summary(trained: TrainResult) -> dict[str, float]:
    """Numbers of the run that come out the same however often it was interrupted."""
    last = trained.history[-1]
    return {
        "steps": float(trained.num_steps),
        "epochs": float(last["epoch"]),
        "first_loss": float(trained.history[0]["loss"]),
        "final_loss": trained.final_loss,
        "train_accuracy": float(last["metrics"]["rewards/accuracy"]),
        "logical_tokens": float(sum(entry["logical_tokens"] for entry in trained.history)),
        "packed_tokens": float(sum(entry["packed_tokens"] for entry in trained.history)),
    }


def _figures(evaluation: RewardEvaluation | None) -> dict[str, float]:
    """The evaluation's headline numbers, flat."""
    if evaluation is None:
        return {}
    accuracy = evaluation.slices[ALL].accuracy
    found = {"test_accuracy": accuracy.value, "test_accuracy_low": accuracy.low, "test_accuracy_high": accuracy.high}
    found |= {f"probe_{probe.name}": probe.shift.value for probe in evaluation.probes}
    if evaluation.calibration:
        measured = evaluation.calibration
        found |= {"temperature": measured.temperature, "ece_before": measured.ece_before, "ece_after": measured.ece_after}
    return found


STAGES.register("reward_model")(
    Stage(RewardModelConfig, run_reward_model, makes="reward_model", records=(PreferencePair,), files=("calibration", "test"))
)
