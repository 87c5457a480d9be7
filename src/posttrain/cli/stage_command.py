"""What the commands that train by one stage share: settings out of file and options, the run with its display, the JSON at the end."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.config import Config
    from posttrain.stages import StageResult


def stage_settings(config: str, given: Mapping[str, Any], *, lora_rank: int = 0, lora_targets: str = "") -> dict[str, Any]:
    """The settings of the YAML file ``config`` ("" for none), with the options that were given in their place; nothing is checked yet.

    ``lora_targets`` alone changes an adapter the file has; without one it is refused, for every weight would train.
    """
    from posttrain.config import read_yaml
    from posttrain.errors import ConfigError

    settings: dict[str, Any] = read_yaml(config) if config else {}
    settings |= {name: value for name, value in given.items() if value}
    if lora_targets and not lora_rank and not settings.get("lora"):
        raise ConfigError("--lora-targets names where an adapter sits, and there is none", hint="add --lora-rank 16")
    if lora_rank or lora_targets:
        lora = {"rank": lora_rank, "targets": lora_targets}
        settings["lora"] = {**(settings.get("lora") or {}), **{name: value for name, value in lora.items() if value}}
    return settings


def run_stage(
    run: "Callable[..., StageResult]",
    config: "Config",
    model: str,
    out: Path,
    *,
    title: str,
    store: Path,
    loggers: Sequence[str] | None = None,
) -> "StageResult":
    """Run a stage with its progress in the terminal, its curves in ``loggers`` (jsonl when None) and its lineage in ``store``."""
    from posttrain.lineage import LineageStore, build_loggers
    from posttrain.recipes.display import TerminalDisplay

    lineage = LineageStore(store).open()  # a store that cannot be used is found before the training
    with TerminalDisplay() as display, closing(build_loggers(loggers or ["jsonl"], out, report=display.say)) as logger:
        display.step(1, title, "run")
        result = run(config, model, out, lineage=lineage, progress=display, logger=logger)
        display.step(1, title, "done")
    return result


def result_json(result: "StageResult", **more: Any) -> str:
    """One JSON object: what was written, its id, its numbers."""
    return json.dumps({"written": str(result.adapter or result.model), "id": result.id, **more, "metrics": dict(result.metrics)})


def loss_text(result: "StageResult") -> str:
    """What was written and how the loss moved."""
    first, last = result.metrics["first_loss"], result.metrics["final_loss"]
    steps = f"{result.metrics['steps']:.0f} steps"
    return f"{result.adapter or result.model}\nloss {first:.4f} -> {last:.4f} in {steps}; lineage {result.id}"
