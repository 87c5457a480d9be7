"""RLHF with PPO, from prompts and a reward model to a model folder or adapter. Reads top to bottom; the loop is in ``ppo_loop``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.chat import CONTRACT_FILE, ChatContract
from posttrain.config import context_length
from posttrain.config.files import write_json
from posttrain.errors import ConfigError, DataError
from posttrain.lineage import LineageStore, RunLogger
from posttrain.models import ModelOptions, ModelSettings, find_model
from posttrain.models.actor_critic import ActorCritic
from posttrain.records import Demonstration, PreferencePair, PromptOnly, UnpairedLabel
from posttrain.rewards import RewardModel
from posttrain.stages.base import STAGES, Progress, Quiet, Stage, StageResult
from posttrain.stages.ppo_loop import Entry, Judges, PpoRun, run_updates
from posttrain.stages.ppo_report import measure_result, summarize, write_answers
from posttrain.stages.ppo_rollouts import Prompt, check_apart, fit_judge, load_prompts
from posttrain.stages.ppo_settings import PpoConfig as PpoConfig
from posttrain.stages.setup import begin
from posttrain.training import TrainingItem, build_plan, open_world
from posttrain.training.identity import run_identity
from posttrain.training.items import data_hash


def run_ppo(
    config: PpoConfig,
    model_path: str | Path,
    run_dir: str | Path,
    *,
    lineage: LineageStore | None = None,
    parents: Sequence[str] = (),
    progress: Progress | None = None,
    logger: RunLogger | None = None,
) -> StageResult:
    """Train ``model_path`` against ``config.reward_model`` and write ``run_dir/model`` (full) or ``run_dir/adapter`` (PEFT files).

    ``result.json`` holds settings, numbers, history and why the run stopped early, if it did; ``answers.jsonl`` reference and result
    side by side. Killed and called again it goes on from its last checkpoint. Raises DataError for prompts that cannot be answered,
    CheckFailed for data without consent, ContractError for a value model of another contract, TrainingError for rewards that are constant
    or not finite and for losses that are not finite, ConfigError and InfrastructureError as :func:`posttrain.training.train` does.
    """
    show = progress or Quiet()
    with open_world() as world:
        if world.size > 1:
            raise ConfigError(f"PPO runs in one process, and {world.size} were started", hint="start it without torchrun")
    begun = begin("ppo", config, model_path, run_dir, data=[path for path in (config.data, config.held_out) if path])
    contract, folder, out = begun.contract, begun.folder, begun.out
    judges = _load_judges(config)
    prompts, held_out = _load_data(config, contract, folder, judges, show)
    run = _build_run(config, folder, contract, judges, prompts)
    write_json(out / CONTRACT_FILE, contract.record())
    if logger:
        logger.log_params(config.dump())

    def on_update(entry: Entry) -> None:
        show.advance(entry["update"], run.plan.num_steps, _describe(entry))
        if entry["update"] == 1 and entry["eos_share"] == 0:
            show.say(f"none of the first {entry['answers']} answers ended its turn: raise max_new_tokens, or teach the model to end (SFT)")
        if logger:
            logger.log_metrics({name: float(value) for name, value in entry.items() if not isinstance(value, str)}, entry["update"])

    history, best = run_updates(run, out, _identity(run), on_update)
    before, after, last_kl, stopped = measure_result(run, held_out, history, best)
    if stopped:
        show.say(f"stopped: {stopped}")
    metrics = summarize(before, after, history) | {"last_kl": last_kl}
    write_answers(out / "answers.jsonl", before, after)
    run.models.drop_value()
    models = _models_beside(lineage, config) if lineage else []
    rest = {"stopped": stopped, "history": history}
    id_ = begun.save(run.models.policy, metrics, rest, lineage=lineage, parents=parents, models=models)
    return begun.result(metrics, history, id_)


def _load_data(
    config: PpoConfig, contract: ChatContract, folder: Path, judges: Judges, show: Progress
) -> tuple[list[Prompt], list[Prompt]]:
    """Training prompts, and those the run is measured on: policy and judges can read all of them with an answer."""

    def load(path: str) -> tuple[list[Prompt], str]:
        found, left_out = load_prompts(path, contract, config, context=context_length(folder))
        kept = fit_judge(path, found, judges.reward, config, name="reward model")
        if judges.held_out is not None:
            kept = fit_judge(path, kept, judges.held_out, config, name="held-out reward model")
        left_out += len(found) - len(kept)
        return kept, f" ({left_out} left out: too long)" if left_out else ""

    prompts, dropped = load(config.data)
    note = f"{len(prompts)} prompts{dropped}"
    if len(prompts) < 2:
        raise DataError(f"{config.data}: holds 1 prompt", hint="PPO compares answers to several: give at least 2 prompts")
    if config.held_out is None:
        show.say(f"{note}; no held-out prompts given: the gain is measured on prompts that were trained on")
        return prompts, prompts[: config.held_out_limit]
    held_out, dropped = load(config.held_out)
    held_out = held_out[: config.held_out_limit]
    if len(held_out) < 2:
        raise DataError(f"{config.held_out}: holds 1 prompt", hint="a gain with an interval needs at least 2 held-out prompts")
    check_apart(prompts, held_out, config.held_out)
    show.say(f"{note}, {len(held_out)} held out{dropped}")
    return prompts, held_out


def _load_judges(config: PpoConfig) -> Judges:
    reward = RewardModel.load(config.reward_model, dtype=config.dtype)
    if config.held_out_reward_model is None:
        return Judges(reward)
    held_out = RewardModel.load(config.held_out_reward_model, dtype=config.dtype)
    if all(held_out.identity[part] == reward.identity[part] for part in ("weights", "contract")):  # a copy under another name too
        raise ConfigError(
            f"reward_model and held_out_reward_model are the same model ({config.reward_model})",
            hint="a held-out reward model must be another one, best trained on other data",
        )
    return Judges(reward, held_out)


def _build_run(config: PpoConfig, folder: Path, contract: ChatContract, judges: Judges, prompts: Sequence[Prompt]) -> PpoRun:
    if config.value_model is not None:
        contract.check_same(ChatContract.load(find_model(config.value_model)).record(), what=f"value_model {config.value_model}")
    options = {name: getattr(config, name) for name in ModelOptions.model_fields}
    settings = ModelSettings(path=str(folder), **options)
    models = ActorCritic.load(settings, seed=config.training.seed, value_path=config.value_model)
    training = config.training  # every update is full: what is over at the end of an epoch goes on in the next
    updates = training.max_steps or max(1, round(training.epochs * len(prompts) / training.sequences_per_step))
    plan = build_plan(_items(prompts), training.model_copy(update={"max_steps": updates}))
    return PpoRun(models, contract, judges, prompts, plan, config)


def _items(prompts: Sequence[Prompt]) -> list[TrainingItem]:
    """The prompts as the engine's batch plan takes them."""
    return [TrainingItem((prompt.as_sequence(),)) for prompt in prompts]


def _identity(run: PpoRun) -> dict[str, Any]:
    """What the run is a run of: the engine's record with PPO's own settings and the reward models in it."""
    identity = run_identity(run.models.policy, run.config.training, run.plan, data_hash(_items(run.prompts)), run.contract.record())
    own = {name: value for name, value in run.config.dump().items() if name not in ("training", "data", "held_out", "held_out_limit")}
    judges = {"reward": run.judges.reward.identity, "held_out": run.judges.held_out.identity if run.judges.held_out else None}
    return identity | {"settings": identity["settings"] | own | {"judges": judges}}


def _describe(entry: Entry) -> str:
    held = f", held out {entry['held_out_reward']:.3f}" if "held_out_reward" in entry else ""
    return f"reward {entry['reward']:.3f}{held}  KL {entry['kl']:.2f}  length {entry['length']:.0f}"


def _models_beside(lineage: LineageStore, config: PpoConfig) -> list[str]:
    """The reward models and the value model as nodes."""
    paths = [path for path in (config.reward_model, config.held_out_reward_model, config.value_model) if path is not None]
    return [lineage.put("model", {"name": find_model(path).name}, files=[find_model(path)]) for path in dict.fromkeys(paths)]


STAGES.register("ppo")(
    Stage(
        PpoConfig,
        run_ppo,
        records=(PromptOnly, PreferencePair, UnpairedLabel, Demonstration),
        files=("held_out",),
        models=("reward_model", "held_out_reward_model", "value_model"),
    )
)
