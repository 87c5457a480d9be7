"""Supervised fine-tuning, from a data file to a model folder or adapter. Reads top to bottom."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from posttrain.chat import CONTRACT_FILE, ChatContract, MaskKind, unprinted
from posttrain.config.files import write_json
from posttrain.data import read_records, rejects_file
from posttrain.errors import ContractError, DataError
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
    """A row that cannot be read or masked exactly: stop and name it, or set it aside and say how many were."""
    rejects: str | None = None
    """Folder for rows that are set aside; left out: beside their file, as <file>.rejects.jsonl, or in a recipe the stage's folder."""
    on_too_long: Literal["stop", "drop"] = "stop"
    """A row over ``max_tokens``: stop and name it, or leave it out and say how many were. Rows are never cut."""
    on_nothing_supervised: Literal["stop", "drop"] = "stop"
    """A row none of whose tokens is supervised: stop and name it, or leave it out and say how many were."""
    on_unprinted: Literal["stop", "drop", "train"] = "stop"
    """A row of which the template cannot print something (reasoning, tools, a content): stop and name it, leave it out, or train on what is
    printed; each says how many were."""
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
        show.say(_describe(counts, config) + set_aside(counts, config.data, config.rejects))
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

    Rows are numbered by their place in the file. Raises DataError naming the rows that cannot be masked, are longer than ``limit`` tokens,
    train nothing or are not printed whole, where the config says stop.
    """
    reader = read_records(config.data, Demonstration, on_bad_row=config.on_bad_row, rejects_path=rejects_file(config.data, config.rejects))
    sequences: list[TokenSequence] = []
    unprinted_rows: dict[int, str] = {}
    num_refused = 0
    for record in cast(Iterator[Demonstration], reader):
        try:
            sequence = contract.supervise(record, mask=config.mask)
            missing = unprinted(contract, record)
        except ContractError as error:
            if config.on_bad_row == "stop":
                hint = f"{error.hint or 'mend the row'}; or set it aside: on_bad_row: skip"
                raise DataError(f"{reader.where}: {error.message}", hint=hint) from None
            reader.set_aside(error)
            num_refused += 1
            continue
        sequences.append(replace(sequence, index=reader.position))
        if missing:
            unprinted_rows[reader.position] = f"{reader.where} ({', '.join(missing)})"
    sizes = {row.index: f"{row.index} ({len(row)} tokens)" for row in sequences}
    too_long = {row.index: sizes[row.index] for row in sequences if limit is not None and len(row) > limit}
    idle = {row.index: sizes[row.index] for row in sequences if row.num_supervised == 0}
    of_rows = f"of {reader.report.rows} rows"
    _check_rows(config, too_long, "on_too_long", f"{of_rows} longer than {limit} tokens")
    _check_rows(config, idle, "on_nothing_supervised", f"{of_rows} that train nothing under mask '{config.mask}'")
    _check_rows(config, unprinted_rows, "on_unprinted", f"{of_rows} hold what the chat template cannot print")
    left_out = too_long.keys() | idle.keys() | (unprinted_rows.keys() if config.on_unprinted == "drop" else set())
    kept = [row for row in sequences if row.index not in left_out]
    if not kept:
        raise DataError(
            f"{config.data}: all {reader.report.rows} rows were dropped, nothing is left to train on", hint="see `posttrain check`"
        )
    counts = {
        "rows": len(kept),
        "rows_skipped": reader.report.skipped,
        "rows_not_encodable": num_refused,
        "rows_too_long": len(too_long),
        "rows_nothing_supervised": len(idle),
        "rows_unprinted": len(unprinted_rows),
        "tokens": sum(len(row) for row in kept),
        "supervised_tokens": sum(row.num_supervised for row in kept),
    }
    return kept, {name: float(value) for name, value in counts.items()}


def _check_rows(config: SftConfig, rows: Mapping[int, str], setting: str, problem: str) -> None:
    """Raise DataError for rows that the config's ``setting`` says to stop at."""
    if rows and getattr(config, setting) == "stop":
        places = ", ".join(list(rows.values())[:10]) + (", ..." if len(rows) > 10 else "")
        rest = "; on_unprinted: train trains on what is printed" if setting == "on_unprinted" else ""
        raise DataError(f"{config.data}: {len(rows)} {problem}: {places}", hint=f"fix them, or leave them out with {setting}: drop{rest}")


def _describe(counts: Mapping[str, float], config: SftConfig) -> str:
    text = f"{int(counts['rows'])} rows, {int(counts['tokens'])} tokens, {int(counts['supervised_tokens'])} of them supervised"
    left_out = {"too long": counts["rows_too_long"], "that would train nothing": counts["rows_nothing_supervised"]}
    unprinted = {"that the template does not print whole": counts["rows_unprinted"]}
    if config.on_unprinted == "drop":
        left_out |= unprinted
    elif any(unprinted.values()):
        text += f"; {int(counts['rows_unprinted'])} of them not printed whole by the template"
    if any(left_out.values()):
        text += "; left out: " + ", ".join(f"{int(number)} {what}" for what, number in left_out.items() if number)
    return text


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
