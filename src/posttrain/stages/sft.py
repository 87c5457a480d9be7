"""Supervised fine-tuning, from a data file to a model folder or adapter. Reads top to bottom."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from posttrain.chat import CONTRACT_FILE, ChatContract, MaskKind
from posttrain.config.files import write_json
from posttrain.data import read_records, rejects_file
from posttrain.errors import DataError
from posttrain.lineage import LineageStore, RunLogger
from posttrain.models import Forest, ModelOptions, Policy
from posttrain.objectives import LossOutput, sft_loss
from posttrain.records import Demonstration, TokenSequence
from posttrain.stages.base import STAGES, Progress, Quiet, Stage, StageResult
from posttrain.stages.setup import (
    begin,
    check_dropout,
    load_policy,
    set_aside,
    token_limit,
    with_learning_rate,
)
from posttrain.training import Microbatch, StepReport, TrainingSettings, TrainResult, open_world, train
from posttrain.training.items import as_items

LORA_LEARNING_RATE = 2e-4
FULL_LEARNING_RATE = 1e-5


class SftConfig(ModelOptions):
    """What a recipe says under ``sft:``; the model's options (``lora``, ``dtype``, ...) stand at the same level."""

    data: str
    """A file of demonstrations, in any shape `posttrain check` reads."""
    mask: MaskKind = "assistant"
    """Which turns train: every assistant turn, the last one, or those after the last user message; of a prompt/completion row, the
    assistant turns of its completion (or the last one)."""
    max_tokens: int | None = Field(default=None, ge=2)
    """Longest row in tokens; left out: as many as the model's positions."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """A row that cannot be read: stop and name it, or set it aside and say how many were."""
    rejects: str | None = None
    """Folder for rows that are set aside; left out: beside their file, as <file>.rejects.jsonl, or in a recipe the stage's folder."""
    on_too_long: Literal["stop", "drop"] = "stop"
    """A row over ``max_tokens``: stop and name it, or leave it out and say how many were. Rows are never cut."""
    on_nothing_supervised: Literal["stop", "drop"] = "stop"
    """A row none of whose tokens is supervised: stop and name it, or leave it out and say how many were."""
    training: TrainingSettings
    """The engine's settings; ``learning_rate`` is 2e-4 with an adapter and 1e-5 in full when left out."""

    @model_validator(mode="before")
    @classmethod
    def _default_learning_rate(cls, values: Any) -> Any:
        return with_learning_rate(values, adapter=LORA_LEARNING_RATE, full=FULL_LEARNING_RATE)

    @model_validator(mode="after")
    def _dropout_needs_own_tokens(self) -> "SftConfig":
        check_dropout(self, self.training)
        return self


def run_sft(
    config: SftConfig,
    model_path: str | Path,
    run_dir: str | Path,
    *,
    lineage: LineageStore | None = None,
    parents: Sequence[str] = (),
    progress: Progress | None = None,
    logger: RunLogger | None = None,
) -> StageResult:
    """Train ``model_path`` on ``config.data`` and write ``run_dir/model`` (full) or ``run_dir/adapter`` (PEFT files).

    Killed and called again it goes on from its last checkpoint. Raises DataError for rows that would train nothing or not fit, CheckFailed
    for data without consent, ContractError, ConfigError and TrainingError as :func:`posttrain.training.train` does.
    """
    run = begin("sft", config, model_path, run_dir, data=[config.data])
    contract = run.contract
    with open_world() as world:
        show = progress if progress and world.is_main else Quiet()
        sequences, counts = load_sequences(config, contract, limit=token_limit(config.max_tokens, run.folder))
        show.say(_describe(counts) + set_aside(counts, config.data, config.rejects))
        policy = load_policy(config, run.folder, as_items(sequences), world)
        if world.is_main:
            write_json(run.out / CONTRACT_FILE, contract.record())
        if logger and world.is_main:
            logger.log_params(config.dump())

        def on_step(report: StepReport) -> None:
            show.advance(report.step, report.num_steps, f"loss {report.loss:.3f}  {report.tokens_per_second:.0f} tokens/s")
            if logger:
                logger.log_metrics(report.numbers(), report.step)

        trained = train(policy, sequences, sft_step, config.training, run_dir=run.out, contract_record=contract.record(), on_step=on_step)
        metrics, id_ = counts | _summary(trained, policy), ""
        if world.is_main:
            id_ = run.save(policy, metrics, {"history": trained.history}, lineage=lineage, parents=parents)
        world.wait()
    return run.result(metrics, trained.history, id_)


def sft_step(policy: Policy, forest: Forest, microbatch: Microbatch) -> LossOutput:
    """The loss of one micro-batch: every supervised token counts the same."""
    return sft_loss(policy.logprobs(forest, uniform=True))


def load_sequences(config: SftConfig, contract: ChatContract, *, limit: int | None) -> tuple[list[TokenSequence], dict[str, float]]:
    """Read, render and mask ``config.data``: the sequences that train, and counts of rows, tokens and what was left out.

    Raises DataError naming the rows when some are longer than ``limit`` tokens or train nothing and the config says stop.
    """
    reader = read_records(config.data, Demonstration, on_bad_row=config.on_bad_row, rejects_path=rejects_file(config.data, config.rejects))
    sequences = list(contract.supervise_many(cast(Iterator[Demonstration], reader), mask=config.mask, first_index=1))
    too_long = [row for row in sequences if limit is not None and len(row) > limit]
    idle = [row for row in sequences if row.num_supervised == 0]
    named = f"{config.data}: {{}} of {len(sequences)} rows {{}}: {{}}"
    _check_rows(too_long, config.on_too_long, named, f"longer than {limit} tokens", "on_too_long")
    _check_rows(idle, config.on_nothing_supervised, named, f"that train nothing under mask '{config.mask}'", "on_nothing_supervised")
    left_out = {row.index for row in (*too_long, *idle)}
    kept = [row for row in sequences if row.index not in left_out]
    if not kept:
        raise DataError(f"{config.data}: all {len(sequences)} rows were dropped, nothing is left to train on", hint="see `posttrain check`")
    counts = {
        "rows": len(kept),
        "rows_skipped": reader.report.skipped,
        "rows_too_long": len(too_long),
        "rows_nothing_supervised": len(idle),
        "tokens": sum(len(row) for row in kept),
        "supervised_tokens": sum(row.num_supervised for row in kept),
    }
    return kept, {name: float(value) for name, value in counts.items()}


def _check_rows(rows: Sequence[TokenSequence], rule: str, message: str, problem: str, setting: str) -> None:
    if rows and rule == "stop":
        places = ", ".join(f"{row.index} ({len(row)} tokens)" for row in rows[:10]) + (", ..." if len(rows) > 10 else "")
        raise DataError(message.format(len(rows), problem, places), hint=f"fix them, or leave them out with {setting}: drop")


def _describe(counts: Mapping[str, float]) -> str:
    left_out = int(counts["rows_too_long"]), int(counts["rows_nothing_supervised"])
    text = f"{int(counts['rows'])} rows, {int(counts['tokens'])} tokens, {int(counts['supervised_tokens'])} of them supervised"
    return text + (f"; left out: {left_out[0]} too long, {left_out[1]} that would train nothing" if any(left_out) else "")


def _summary(trained: TrainResult, policy: Policy) -> dict[str, float]:
    """Numbers of the run that come out the same however often it was interrupted."""
    return {
        "steps": float(trained.num_steps),
        "epochs": float(trained.history[-1]["epoch"]),
        "first_loss": float(trained.history[0]["loss"]),
        "final_loss": trained.final_loss,
        "logical_tokens": float(sum(entry["logical_tokens"] for entry in trained.history)),
        "packed_tokens": float(sum(entry["packed_tokens"] for entry in trained.history)),
        "trainable_parameters": float(sum(parameter.numel() for parameter in policy.trainable().values())),
    }


STAGES.register("sft")(Stage(SftConfig, run_sft, files=("adapter",)))
