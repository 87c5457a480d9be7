"""The steps of a run that make or measure a model: train a stage, evaluate a suite."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from posttrain.config import content_hash, path_hash
from posttrain.config.files import write_json
from posttrain.evaluation import Suite
from posttrain.lineage import build_loggers
from posttrain.recipes.origins import Origins, deciding_versions
from posttrain.recipes.recipe import LoadedRecipe, StageEntry, stage_files, with_files
from posttrain.recipes.steps import Outputs, StepResult, Steps
from posttrain.release import REWARD_MODELS_FILE
from posttrain.rewards.evaluation import ALL
from posttrain.stages import STAGES
from posttrain.stages.reward_model import EVALUATION_FILE


@dataclass(frozen=True, slots=True)
class RunSoFar:
    """A run while it goes: its steps, what it starts from (also the reference that drift is measured from), its reward models by name."""

    steps: Steps
    loaded: LoadedRecipe
    start: StepResult
    origins: Origins | None
    reward_models: dict[str, StepResult] = field(default_factory=dict)


def evaluate_step(run: RunSoFar, suite: Suite, model: StepResult, name: str) -> StepResult:
    """Run one suite on the model a step made; scores that need models get the start model and the run's reward models."""
    settings = run.loaded.recipe.evaluation
    roles = {role: run.reward_models[role] for role in suite.reward_roles}
    inputs = {"suite": suite.hash, "model": model.key, "settings": settings.dump(), "versions": deciding_versions("evaluation")}
    if suite.needs_models:
        inputs |= {"reference": run.start.key, "rewards": {role: step.key for role, step in roles.items()}}
    answers = run.steps.out / "cache" / f"answers-{content_hash(deciding_versions())[:12]}"
    run.steps.caches.add(answers)

    def work(folder: Path) -> Outputs:
        from posttrain.evaluation import ScoringModels, evaluate
        from posttrain.generation import LocalGenerator

        assert run.origins is not None
        path, adapter, steps = Path(model.outputs["path"]), model.outputs.get("adapter"), run.steps
        rewards = {role: Path(step.outputs["path"]) for role, step in roles.items()}
        reference = Path(run.start.outputs["path"])
        models = ScoringModels(path, Path(adapter) if adapter else None, reference, rewards, dtype=settings.dtype)
        generator = LocalGenerator.load(path, adapter, dtype=settings.dtype, batch_size=settings.batch_size)
        result = evaluate(
            suite,
            generator,
            out_dir=folder / "results",
            cache_dir=answers,
            on_progress=lambda p: steps.display.advance(p.num_done, p.num_total, f"{p.num_cached + p.num_reused} from before"),
            name=name,
            trained_at=model.outputs.get("trained_at"),
            models=models if suite.needs_models else None,
        )
        if roles:
            write_json(result.folder / REWARD_MODELS_FILE, _reward_figures(suite, roles))
        content = {"name": f"{suite.config.name} on {name}", "suite": suite.hash, "generator": dict(generator.identity)}
        names = ("results.jsonl", "summary.json", "model_scores.jsonl", REWARD_MODELS_FILE)
        files = [result.folder / name for name in names if (result.folder / name).is_file()]
        parents = [model.outputs["lineage"], run.origins.suites[suite.path], *(step.outputs["lineage"] for step in roles.values())]
        return {"results": str(result.folder), "lineage": run.origins.store.put("evaluation", content, parents=parents, files=files)}

    title = f"evaluate {name} on {suite.config.name} ({len(suite.cases)} cases)"
    result = run.steps.do(f"evaluate-{name}-{suite.config.name}", title, inputs, work)
    return StepResult(result.name, result.key, result.folder / "results", result.state, result.seconds, result.outputs)


def train_step(run: RunSoFar, entry: StageEntry, model: StepResult, data: StepResult) -> StepResult:
    """One training stage on the clean data, from the model an earlier step made."""
    loaded, stage = run.loaded, STAGES.get(entry.kind)
    number = loaded.recipe.stages.index(entry)
    settings = _with_seed(entry.settings, loaded.recipe.seed)
    named = {key: run.reward_models[settings[key]] for key in stage.models if settings.get(key) in run.reward_models}
    files = stage_files(loaded, entry)
    unnamed = with_files(settings, dict.fromkeys(files))
    comparable = {key: value for key, value in unnamed.items() if key != "data" and key not in files and key not in named}
    inputs = {"kind": entry.kind, "settings": comparable, "model": model.key, "data": data.key, "versions": deciding_versions()}
    if files or named:
        inputs |= {"files": _hashes(files), "models": {key: step.key for key, step in named.items()}}

    cache = None
    if "reference_cache" in stage.config.model_fields and "reference_cache" not in settings:
        rows = {key: value for key, value in comparable.items() if key not in ("objective", "training", "watch")}
        name = content_hash({"model": model.key, "data": data.key, "rows": rows})[:16]
        cache = run.steps.out / "cache" / "reference" / name
        run.steps.caches.add(cache)

    def work(folder: Path) -> Outputs:
        origins = run.origins
        assert origins is not None
        began = folder / "began.json"
        if not began.exists():
            write_json(began, {"trained_at": datetime.now(UTC).isoformat()})
        resolved = with_files(settings, files) | {key: step.outputs["path"] for key, step in named.items()} | {"data": data.outputs["path"]}
        if "rejects" in stage.config.model_fields:
            resolved.setdefault("rejects", str(folder))
        if cache is not None:
            resolved["reference_cache"] = str(cache)
        logger = build_loggers(loaded.recipe.loggers, folder / "logs", report=run.steps.display.say)
        sources = [model, data, *named.values()]
        try:
            result = stage.run(
                stage.parse(resolved, where=f"{loaded.path}: stages.{number}.{entry.kind}"),
                _as_one_model(model, folder),
                folder,
                lineage=origins.store,
                parents=[*(step.outputs["lineage"] for step in sources), origins.policy, *origins.shared],
                progress=run.steps.display,
                logger=logger,
            )
        finally:
            logger.close()
        write_json(folder / "history.json", list(result.history))
        return {
            "path": str(result.model),
            "adapter": str(result.adapter) if result.adapter else None,
            "metrics": dict(result.metrics),
            "lineage": result.id,
            "trained_at": json.loads(began.read_text(encoding="utf-8"))["trained_at"],
        }

    return run.steps.do(f"{number + 1}-{entry.name}", f"{entry.name}: train", inputs, work)


def _reward_figures(suite: Suite, roles: Mapping[str, StepResult]) -> dict[str, Any]:
    """How well the models behind a suite's reward scores do on their own test pairs; those without any are left out."""
    found: dict[str, Any] = {}
    for scorer in suite.scorers:
        file = roles[scorer.reward_role].folder / EVALUATION_FILE if scorer.reward_role else None
        every = json.loads(file.read_text(encoding="utf-8")).get("slices", {}).get(ALL) if file and file.is_file() else None
        if every:
            figures = {"model": scorer.reward_role, "pairs": every["pairs"], "accuracy": every["accuracy"]}
            found |= dict.fromkeys(scorer.outputs, figures)
    return found


def _as_one_model(model: StepResult, folder: Path) -> Path:
    """The folder a stage starts from: an adapter of the stage before is merged into its base first."""
    if not model.outputs.get("adapter"):
        return Path(model.outputs["path"])
    from posttrain.models import merge_adapter

    merged = folder / "start"
    if not (merged / "config.json").is_file():
        merge_adapter(model.outputs["path"], model.outputs["adapter"], merged)
    return merged


def _hashes(files: Mapping[str, Any]) -> dict[str, Any]:
    """What the files hold; a missing one stands for itself and is refused by the stage that reads it."""
    return {
        key: _hashes(value) if isinstance(value, Mapping) else path_hash(value) if Path(value).exists() else value
        for key, value in files.items()
    }


def _with_seed(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Stage settings with the recipe's seed where the stage gives none of its own."""
    training = {"seed": seed, **(settings.get("training") or {})}
    return {**settings, "training": training}
