"""Preference alignment, from a file of pairs or labels to a model folder or adapter: DPO and its family, KTO. Reads top to bottom."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import Tensor

from posttrain.chat import CONTRACT_FILE, ChatContract
from posttrain.config import Config, parse
from posttrain.config.files import write_json
from posttrain.errors import ConfigError, DataError
from posttrain.lineage import LineageStore, RunLogger
from posttrain.models import ModelOptions, Policy
from posttrain.objectives import objective_inputs, objective_settings, objectives
from posttrain.records import PreferencePair, TokenSequence, UnpairedLabel
from posttrain.stages.base import STAGES, Progress, Quiet, Stage, StageResult
from posttrain.stages.pairs import PreferenceData, PreferenceRules, check_apart, load_labels, load_pairs, mismatched, split_pairs
from posttrain.stages.preference_loss import MismatchedDrift, PreferenceLoss, add_reference
from posttrain.stages.setup import (
    begin,
    check_dropout,
    load_policy,
    set_aside,
    token_limit,
    with_learning_rate,
)
from posttrain.stages.watch import (
    Watch,
    WatchedAnswers,
    WatchSettings,
    build_watched,
    find_warnings,
    format_validator,
    made_between,
    sample_requests,
    stale_warning,
    starting_fit,
    watched_rows,
)
from posttrain.training import (
    Evaluation,
    StepLoss,
    StepReport,
    TrainingItem,
    TrainingSettings,
    TrainResult,
    World,
    open_world,
    reference_logprobs,
    train,
)

FULL_LEARNING_RATE = 1e-6
LORA_LEARNING_RATE = 1e-5
IMITATING = frozenset({"orpo"})
"""Objectives with a likelihood term on the chosen answer: sources that must not be imitated are left out of their data."""


def _objective(value: Any) -> Any:
    """``{name: dpo, beta: 0.1}`` (or the bare name) as the settings class made from the objective's signature."""
    if isinstance(value, Config):
        return value
    settings = {"name": value} if isinstance(value, str) else value
    usable = [name for name in objectives if objective_inputs(name) & {"policy_chosen_logps", "policy_logps"}]
    if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
        raise ValueError(f"needs a name, one of: {', '.join(usable)}")
    try:
        checked = parse(objective_settings(settings["name"]), settings, where=f"objective '{settings['name']}'")
    except ConfigError as error:
        raise ValueError(f"{error.message} ({error.hint})" if error.hint else error.message) from None
    if settings["name"] not in usable:
        raise ValueError(f"'{settings['name']}' learns from neither pairs nor labelled answers; use one of: {', '.join(usable)}")
    return checked


class PreferenceConfig(ModelOptions):
    """What a recipe says under ``preference:``; the model's options (``lora``, ``dtype``, ...) stand at the same level."""

    data: str
    """A file of pairs, or of single labelled answers for an objective that takes those, in any shape `posttrain check` reads."""
    objective: Annotated[SerializeAsAny[Config], BeforeValidator(_objective)] = Field(default_factory=lambda: _objective("dpo"))
    """The loss by name with its hyperparameters: ``{name: dpo, beta: 0.1}``."""
    held_out: str | None = None
    """A file of the same kind that is never trained on: ranking it right less often than the training rows shows overfitting."""
    unpair: bool = False
    """Split pairs into a good and a bad answer each, for an objective on single labels (kto)."""
    max_tokens: int | None = Field(default=None, ge=2)
    """Longest sequence in tokens; left out: as many as the model's positions."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """A row that cannot be read or encoded: stop and name it, or set it aside and say how many were."""
    rejects: str | None = None
    """Folder for rows that are set aside; left out: beside their file, as <file>.rejects.jsonl, or in a recipe the stage's folder."""
    on_too_long: Literal["stop", "drop"] = "stop"
    """A pair with a side over ``max_tokens``: stop and name it, or leave the whole pair out and say how many were. No side is ever cut."""
    reference_cache: str | None = None
    """Folder of reference log-probabilities, shared by runs on the same model and data (a sweep); left out: in the run's own folder."""
    watch: WatchSettings = Field(default_factory=WatchSettings)
    """What is measured while training, and what of it is called a failure."""
    training: TrainingSettings
    """The engine's settings. ``learning_rate`` when left out: 1e-6 for all weights (5e-7 to 1e-6 is usual, a good model being nudged),
    1e-5 with an adapter, which needs about ten times as much."""

    @model_validator(mode="before")
    @classmethod
    def _default_learning_rate(cls, values: Any) -> Any:
        return with_learning_rate(values, adapter=LORA_LEARNING_RATE, full=FULL_LEARNING_RATE)

    @model_validator(mode="after")
    def _check(self) -> "PreferenceConfig":
        check_dropout(self, self.training)
        if self.unpair and self.takes_pairs:
            raise ValueError(
                f"'unpair' splits pairs into single labels, and objective '{self.objective_name}' compares pairs: leave it out"
            )
        return self

    @property
    def objective_name(self) -> str:
        """Name of the objective."""
        return str(dict(self.objective)["name"])

    @property
    def takes_pairs(self) -> bool:
        """Whether the objective compares two answers (else it weighs single labelled ones)."""
        return "policy_chosen_logps" in objective_inputs(self.objective_name)


def run_preference(
    config: PreferenceConfig,
    model_path: str | Path,
    run_dir: str | Path,
    *,
    lineage: LineageStore | None = None,
    parents: Sequence[str] = (),
    progress: Progress | None = None,
    logger: RunLogger | None = None,
) -> StageResult:
    """Align ``model_path`` with ``config.data`` and write ``run_dir/model`` (full) or ``run_dir/adapter`` (PEFT files).

    The start model is the reference. Killed and called again it goes on where it was, in the reference pass or from its last checkpoint.
    ``result.json`` holds the history, how likely the pairs were at the start, and the warnings. Raises DataError for rows that cannot train
    fairly, CheckFailed for data without consent, ConfigError for a reference cache of another model or data, ContractError and
    TrainingError as :func:`posttrain.training.train` does.
    """
    begun = begin("preference", config, model_path, run_dir, data=[config.data])
    contract, out = begun.contract, begun.out
    with open_world() as world:
        show = progress if progress and world.is_main else Quiet()
        validator = format_validator(config.watch.json_schema)
        data = load_preferences(config, contract, limit=token_limit(config.max_tokens, begun.folder))
        show.say(_describe(data.training.counts) + set_aside(data.training.counts, config.data, config.rejects))
        if unbalanced := _unbalanced(config, data.training):
            show.say(f"warning: {unbalanced}")
        policy = load_policy(config, begun.folder, data.training.items, world)
        if world.is_main:
            write_json(out / CONTRACT_FILE, contract.record())
        if logger and world.is_main:
            logger.log_params(config.dump())
        run = _Run(config, policy, contract, out, world, show, validator)
        items, loss = _prepare(run, data.training.items)
        watch = _build_watch(run, data, items)
        fit = starting_fit(policy, contract, watch)
        made = made_between(data.watched.records)
        stale = stale_warning(fit, config.watch, made=made)
        if stale:
            show.say(f"warning: {stale.message}")

        report, record = _reporter(config, show, logger), contract.record()
        watching = [Evaluation("watch", config.watch.every_steps, watch)]
        trained = train(policy, items, loss, config.training, run_dir=out, contract_record=record, on_step=report, evaluations=watching)
        warnings = [*([stale] if stale else []), *find_warnings(trained.history, config.watch)]
        metrics, id_ = data.training.counts | _summary(trained, policy, fit, len(warnings)), ""
        if world.is_main:
            told = [warning.dump() for warning in warnings]
            rest = {"start": fit, "pairs_created": made, "warnings": told, "history": trained.history}
            id_ = begun.save(policy, metrics, rest, lineage=lineage, parents=parents)
        world.wait()
    return begun.result(metrics, trained.history, id_)


@dataclass(frozen=True, slots=True)
class LoadedPreferences:
    """``training``: what the objective sees. ``watched``: the same rows, unsplit. ``held_out``: None without a file."""

    training: PreferenceData
    watched: PreferenceData
    held_out: PreferenceData | None


def load_preferences(config: PreferenceConfig, contract: ChatContract, *, limit: int | None) -> LoadedPreferences:
    """Read and encode ``config.data`` for the objective (pairs, labels, or labels out of pairs with ``unpair``) and ``config.held_out``."""
    rules = PreferenceRules(limit, config.on_bad_row, config.on_too_long, config.objective_name in IMITATING, config.rejects)
    load = load_pairs if config.takes_pairs or config.unpair else load_labels
    watched = load(config.data, contract, rules)
    training = split_pairs(watched) if config.unpair else watched
    held_out = load(config.held_out, contract, rules) if config.held_out else None
    if held_out and config.held_out:
        check_apart(watched, held_out, config.held_out)
    return LoadedPreferences(training, watched, held_out)


@dataclass(frozen=True, slots=True)
class _Run:
    config: PreferenceConfig
    policy: Policy
    contract: ChatContract
    out: Path
    world: World
    show: Progress
    validator: Any

    def reference(self, sequences: Sequence[TokenSequence], cache: Path) -> Float[Tensor, " sequence"]:
        """log p of each sequence's answer under the policy as loaded, from ``cache`` where it is there."""

        def on_progress(done: int, total: int) -> None:
            self.show.advance(done, total, "tokens of the reference pass")

        found = reference_logprobs(
            self.policy,
            sequences,
            cache,
            contract=self.contract.hash,
            max_tokens=self.config.training.max_tokens_per_microbatch,
            world=self.world,
            on_progress=on_progress,
        )
        return found.sums()


def _prepare(run: _Run, items: Sequence[TrainingItem]) -> tuple[list[TrainingItem], StepLoss]:
    """Items with what the objective needs of the reference, and the loss; what the cache holds is not computed again."""
    config, settings = run.config, {"objective": run.config.objective.dump()}
    inputs, cache = objective_inputs(config.objective_name), Path(config.reference_cache or run.out / "reference")
    sequences = [sequence for item in items for sequence in item.sequences]
    if any(name.startswith("ref_") for name in inputs):
        items = add_reference(items, run.reference(sequences, cache / "answers"))
    if "kl" not in inputs:
        return list(items), StepLoss(PreferenceLoss(config.objective), settings=settings)
    foreign = mismatched(sequences, limit=token_limit(config.max_tokens, Path(run.policy.settings.path)))
    held = [row for row in foreign if row is not None]
    if not held:
        raise DataError(
            f"{config.data}: every answer is to the same prompt, so the drift under other prompts, which '{config.objective_name}' weighs "
            "answers against, cannot be estimated",
            hint="give answers to at least two prompts",
        )
    drift = MismatchedDrift(foreign, run.reference(held, cache / "mismatched"), max_tokens=config.training.max_tokens_per_microbatch)
    return list(items), StepLoss(PreferenceLoss(config.objective, drift=drift), drift.before_step, settings)


def _build_watch(run: _Run, data: LoadedPreferences, items: Sequence[TrainingItem]) -> Watch:
    """What is measured while training; starting log-probabilities come from the items where the objective needed them anyway."""
    config, seed = run.config, run.config.training.seed

    def watched(rows: PreferenceData, name: str, prepared: Sequence[TrainingItem]) -> WatchedAnswers | None:
        positions = watched_rows(rows, config.watch.pairs, seed=seed)
        chosen = [prepared[position] for position in positions if prepared]
        if chosen and "ref_chosen_logps" in chosen[0].tensors:
            start = torch.cat([item.tensors[key] for item in chosen for key in ("ref_chosen_logps", "ref_rejected_logps")])
        else:
            sequences = [sequence for position in positions for sequence in rows.items[position].sequences]
            start = run.reference(sequences, run.out / "reference" / name) if sequences else torch.empty(0)
        return build_watched(rows, positions, start)

    return Watch(
        config.watch,
        run.contract,
        training=watched(data.watched, "watched", items if config.takes_pairs else ()),
        held_out=watched(data.held_out, "held_out", ()) if data.held_out else None,
        requests=sample_requests((data.held_out or data.watched).records, config.watch, seed=seed),
        seed=seed,
        max_tokens=config.training.max_tokens_per_microbatch,
        validator=run.validator,
    )


def _reporter(config: PreferenceConfig, show: Progress, logger: RunLogger | None) -> Callable[[StepReport], None]:
    """What is told of a step: its numbers, and each failure when it is first seen."""
    warned: set[str] = set()

    def on_step(report: StepReport) -> None:
        show.advance(report.step, report.num_steps, f"loss {report.loss:.3f}  {report.tokens_per_second:.0f} tokens/s")
        for warning in find_warnings([report.history()], config.watch):
            if warning.name not in warned:
                show.say(f"warning: {warning.message}")
                warned.add(warning.name)
        if logger:
            logger.log_metrics(report.numbers(), report.step)

    return on_step


def _describe(counts: Mapping[str, float]) -> str:
    reasons = {
        "rows_skipped": "unreadable",
        "rows_not_encodable": "that cannot be encoded or have no difference",
        "rows_too_long": "too long",
        "rows_not_to_imitate": "from sources not to be imitated",
        "pairs_undecided": "undecided",
    }
    left_out = [f"{int(counts[name])} {reason}" for name, reason in reasons.items() if counts.get(name)]
    text = f"{int(counts['rows'])} rows, {int(counts['tokens'])} tokens, {int(counts['supervised_tokens'])} of them in answers"
    text += f"; left out: {', '.join(left_out)}" if left_out else ""
    if counts.get("pairs_turned"):
        text += f"; {int(counts['pairs_turned'])} pairs turned round, their label says that the rejected side is likelier better"
    if counts.get("pairs_hardened"):
        text += f"; {int(counts['pairs_hardened'])} pairs have soft labels, which single labels cannot hold: the likelier side is good"
    return text


def _unbalanced(config: PreferenceConfig, data: PreferenceData) -> str:
    """What is to be said where good and bad answers do not weigh about the same (KTO, equation 8); "" where they do, or for pairs."""
    weights = dict(config.objective)
    if not {"desirable_weight", "undesirable_weight"} <= weights.keys():
        return ""
    good = sum(bool(item.tensors["labels"]) for item in data.items)
    bad = len(data.items) - good
    ratio = weights["desirable_weight"] * good / (weights["undesirable_weight"] * bad)
    if 1 <= ratio <= 4 / 3:
        return ""
    return (
        f"good answers weigh {ratio:.2f} times as much as bad ones ({good} and {bad}); between 1 and 1.33 is advised: "
        "set objective.desirable_weight or objective.undesirable_weight"
    )


def _summary(trained: TrainResult, policy: Policy, fit: Mapping[str, float], num_warnings: int) -> dict[str, float]:
    """Numbers of the run that come out the same however often it was interrupted; metrics and watched numbers are the last step's."""
    return {
        "steps": float(trained.num_steps),
        "epochs": float(trained.history[-1]["epoch"]),
        "first_loss": float(trained.history[0]["loss"]),
        "final_loss": trained.final_loss,
        "logical_tokens": float(sum(entry["logical_tokens"] for entry in trained.history)),
        "packed_tokens": float(sum(entry["packed_tokens"] for entry in trained.history)),
        "trainable_parameters": float(sum(parameter.numel() for parameter in policy.trainable().values())),
        "num_warnings": float(num_warnings),
        **{f"start/{name}": value for name, value in fit.items()},
        **trained.history[-1]["metrics"],
        **trained.history[-1]["evaluations"],
    }


STAGES.register("preference")(
    Stage(PreferenceConfig, run_preference, records=(PreferencePair, UnpairedLabel), files=("held_out", "adapter", "watch.json_schema"))
)
