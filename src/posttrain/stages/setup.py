"""What every training stage does around its training: defaults, the contract it checks, the room the model has, what it was made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.chat import CONTRACT_FILE, ChatContract, load_record
from posttrain.config import Config, context_length
from posttrain.config.files import write_json
from posttrain.data import DataCard, check_consent, load_card, rejects_file
from posttrain.errors import ConfigError
from posttrain.lineage import LineageStore, code_record, environment_record
from posttrain.models import ModelOptions, ModelSettings, Policy, find_model
from posttrain.stages.base import StageResult
from posttrain.training import TrainingItem, TrainingSettings, World


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """A stage that trains a policy, from its start model (``folder``) into ``out``. ``cards``: those of its data files, with consent."""

    stage: str
    config: Any
    folder: Path
    out: Path
    contract: ChatContract
    cards: Mapping[str, DataCard]

    @property
    def target(self) -> Path:
        """Where the result goes: ``out/adapter`` or ``out/model``."""
        return self.out / ("adapter" if self.config.lora is not None or self.config.adapter is not None else "model")

    def save(
        self,
        policy: Policy,
        metrics: Mapping[str, float],
        rest: Mapping[str, Any],
        *,
        lineage: LineageStore | None,
        parents: Sequence[str] = (),
        models: Sequence[str] = (),
    ) -> str:
        """Write the policy and ``result.json`` (settings, metrics and ``rest``); returns the id in the lineage, empty without one.

        ``parents``: what a recipe made it from, in place of start model and data. ``models``: ids of further models it was made with.
        """
        policy.save(self.target, self.contract)
        settings = self.config.dump()
        write_json(self.out / "result.json", {"model": str(self.folder), "settings": settings, "metrics": metrics, **rest})
        if lineage is None:
            return ""
        own = stage_settings(lineage, self.stage, self.config, self.contract, seed=self.config.training.seed)
        sources = [*(parents or origins(lineage, self.folder, self.cards)), *models, *own]
        content = {"name": self.target.name, "stage": self.stage, "metrics": metrics}
        return lineage.put(self.target.name, content, parents=sources, files=[self.target])

    def result(self, metrics: Mapping[str, float], history: Sequence[Mapping[str, Any]], id_: str) -> StageResult:
        """What the stage gives back."""
        is_adapter = self.target.name == "adapter"
        model, adapter = (self.folder, self.target) if is_adapter else (self.target, None)
        return StageResult(model, adapter, metrics, history, id_)


def begin(stage: str, config: Any, model_path: str | Path, run_dir: str | Path, *, data: Sequence[str]) -> PolicyRun:
    """Find the start model; every data file has a card with consent, and model, adapter and run folder carry one chat contract.

    Raises ModelError, CheckFailed and ContractError where that is not so.
    """
    folder, out = find_model(model_path), Path(run_dir)
    cards = {path: load_card(path) for path in data}
    for card in cards.values():
        check_consent(card)
    contract = ChatContract.load(folder)
    check_contracts(contract, [folder, *([Path(config.adapter)] if config.adapter else []), out])
    run = PolicyRun(stage, config, folder, out, contract, cards)
    check_target(run.target)
    return run


def check_target(target: Path) -> None:
    """Raise ConfigError where a stage would replace a folder that no run in the same place has written."""
    if target.exists() and not any((target.parent / name).exists() for name in ("checkpoints", "result.json")):
        raise ConfigError(
            f"{target} is there, but no run in {target.parent} has written it: it would be replaced", hint="choose another output folder"
        )


def check_contracts(contract: ChatContract, folders: Sequence[Path]) -> None:
    """Every folder that carries a contract (model, adapter, the run itself) must carry this one: ContractError where it does not."""
    for folder in folders:
        if (folder / CONTRACT_FILE).is_file():
            contract.check_same(load_record(folder), what=str(folder))


def token_limit(max_tokens: int | None, model: Path) -> int | None:
    """Longest sequence a stage takes: ``max_tokens``, else the model's positions. Raises ConfigError for more than it has positions."""
    positions = context_length(model)
    if max_tokens is not None and positions is not None and max_tokens > positions:
        raise ConfigError(f"max_tokens {max_tokens}: {model} has {positions} positions", hint=f"up to {positions}, or leave it out")
    return max_tokens or positions


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
