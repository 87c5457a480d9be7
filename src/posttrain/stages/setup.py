"""What every training stage does around its training: defaults, the contract it checks, the room the model has, what it was made from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.chat import CONTRACT_FILE, ChatContract
from posttrain.config import Config
from posttrain.data import DataCard, rejects_file
from posttrain.errors import ConfigError
from posttrain.lineage import LineageStore, code_record, environment_record
from posttrain.models import ModelOptions, ModelSettings, Policy
from posttrain.training import TrainingItem, TrainingSettings, World


def check_contracts(contract: ChatContract, folders: Sequence[Path]) -> None:
    """Every folder that carries a contract (model, adapter, the run itself) must carry this one: ContractError where it does not."""
    for folder in folders:
        file = folder / CONTRACT_FILE
        if file.is_file():
            contract.check_same(json.loads(file.read_text(encoding="utf-8")), what=str(folder))


def token_limit(max_tokens: int | None, model: Path) -> int | None:
    """Longest sequence a stage takes: ``max_tokens``, else the model's positions. Raises ConfigError for more than it has positions."""
    positions = context_length(model)
    if max_tokens is not None and positions is not None and max_tokens > positions:
        raise ConfigError(f"max_tokens {max_tokens}: {model} has {positions} positions", hint=f"up to {positions}, or leave it out")
    return max_tokens or positions


def context_length(model: Path) -> int | None:
    """Positions the model was built for; None where its config does not say."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    value = config.get("text_config", config).get("max_position_embeddings")
    return int(value) if value else None


def load_policy(config: Any, folder: Path, items: Sequence[TrainingItem], world: World) -> Policy:
    """The policy a stage trains: ``config`` has the model's options and ``training``; the planned work decides whether to compile."""
    settings = ModelSettings(path=str(folder), **{name: getattr(config, name) for name in ModelOptions.model_fields})
    return Policy.load(settings, seed=config.training.seed, device=world.device, num_tokens=planned_tokens(items, config.training))


def planned_tokens(items: Sequence[TrainingItem], settings: TrainingSettings) -> int:
    """Tokens of the whole run, shared ones counted each time: an upper bound of the work."""
    passes = settings.max_steps * settings.sequences_per_step / len(items) if settings.max_steps else settings.epochs
    return int(passes * sum(item.num_tokens for item in items))


def origins(lineage: LineageStore, model: Path, data: Mapping[str, DataCard]) -> list[str]:
    """Start model, data files with their cards, code and libraries as nodes, for a run outside a recipe (which hands its own in)."""
    return [
        lineage.put("model", {"name": model.name}, files=[model]),
        *(lineage.put("data", {"name": Path(path).name, **card.dump()}, files=[path]) for path, card in data.items()),
        lineage.put("code", code_record()),
        lineage.put("environment", environment_record()),
    ]


def stage_settings(lineage: LineageStore, stage: str, config: Config, contract: ChatContract, *, seed: int) -> list[str]:
    """The stage's own settings, seed and chat contract as nodes."""
    return [
        lineage.put("template", {"name": "chat contract", "hash": contract.hash, "parts": contract.hashes}),
        lineage.put("config", {"name": stage, "settings": config.dump()}),
        lineage.put("seed", {"name": stage, "training": seed}),
    ]


def set_aside(counts: Mapping[str, float], data: str, folder: str | None) -> str:
    """The end of a line on a stage's data: how many rows were set aside, and where; empty for none."""
    number = int(counts["rows_skipped"] + counts.get("rows_not_encodable", 0))
    return f"; set aside: {number}, in {rejects_file(data, folder)}" if number else ""


def with_learning_rate(values: Any, *, adapter: float, full: float) -> Any:
    """Raw settings with the method's own learning rate where none is given: one for adapters, one for all weights."""
    if not isinstance(values, dict) or not isinstance(values.get("training", {}), dict):
        return values
    rate = adapter if values.get("lora") is not None or values.get("adapter") else full
    return values | {"training": {"learning_rate": rate, **values.get("training", {})}}


def check_dropout(options: ModelOptions, training: TrainingSettings) -> None:
    """ValueError (for a validator) where dropout meets shared prefixes."""
    if options.lora is not None and options.lora.dropout > 0 and training.share_prefixes:
        raise ValueError("'lora.dropout' above 0 needs 'training.share_prefixes: false': every sequence draws its own mask")
