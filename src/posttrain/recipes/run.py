"""Run a recipe: start model -> data -> curation -> evaluation -> stages, each evaluated -> gate -> report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from posttrain.config import content_hash, file_hash, read_yaml
from posttrain.config.files import write_json
from posttrain.errors import ConfigError, suggest
from posttrain.evaluation import Suite
from posttrain.lineage import LineageStore, build_loggers, code_record, environment_record
from posttrain.recipes.curation import curate, describe_data
from posttrain.recipes.recipe import LoadedRecipe, StageEntry
from posttrain.recipes.report import write_recipe_report
from posttrain.recipes.start_model import prepare_start_model, start_model_inputs
from posttrain.recipes.steps import Display, Outputs, StepResult, Steps, exclusive
from posttrain.release import Gate, judge, load_gate, write_junit
from posttrain.stages import STAGES


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run came to. ``verdict`` is the gate's (ship, block, inconclusive, infrastructure), empty in a dry run."""

    out: Path
    verdict: str
    headline: str
    report: Path
    before: Path
    after: Path
    steps: tuple[StepResult, ...]


@dataclass(frozen=True, slots=True)
class _Origins:
    """Lineage ids that everything in the run descends from."""

    store: LineageStore
    policy: str
    suites: Mapping[Path, str]
    gate: str
    shared: tuple[str, ...]


def run_recipe(loaded: LoadedRecipe, out: str | Path, *, display: Display, dry_run: bool = False) -> RunOutcome:
    """Run every step that is not done yet, and return the verdict and where the report is.

    Killed at any point and called again, it goes on where it was; finished steps are reused while nothing they depend on changed. Raises
    what the
    steps raise; a failed contamination check is CheckFailed, a suite or gate changed after training ConfigError.
    """
    recipe, root = loaded.recipe, Path(out)
    gate, suites = _load_criteria(loaded)
    with exclusive(root):
        steps = Steps(root, display, dry_run=dry_run)
        origins = None if dry_run else _record_origins(loaded, gate, suites, root)
        start = steps.do(
            "start-model",
            "start model",
            start_model_inputs(loaded),
            lambda folder: prepare_start_model(loaded, folder, display) | _recorded_model(origins, folder, loaded),
        )
        datasets = [_prepare_data(steps, loaded, entry, start, suites, origins) for entry in recipe.stages]
        before = [_evaluate(steps, loaded, suite, start, "start", origins) for suite in suites]
        current = start
        for number, (entry, data) in enumerate(zip(recipe.stages, datasets, strict=True)):
            current = _train(steps, loaded, entry, number, current, data, suites, origins)
            after = [_evaluate(steps, loaded, suite, current, entry.kind, origins) for suite in suites]
        place = [suite.path.resolve() for suite in suites].index(gate.suite.path.resolve())
        verdict = _judge(steps, gate, before[place], after[place], origins)
        if dry_run:
            return RunOutcome(root, "", "dry run: nothing was run", root / "report.html", Path(), Path(), tuple(steps.results))
        folders = before[place].folder, after[place].folder
        report = write_recipe_report(loaded, gate, steps.results, *folders, root / "report.html")
        return RunOutcome(root, verdict.outputs["verdict"], verdict.outputs["headline"], report, *folders, tuple(steps.results))


def _load_criteria(loaded: LoadedRecipe) -> tuple[Gate, list[Suite]]:
    """Gate and suites, frozen before training; the gate judges by one of the recipe's suites."""
    from posttrain.evaluation import load_suite

    gate = load_gate(loaded.at(loaded.recipe.gate))
    suites = [load_suite(loaded.at(path)) for path in loaded.recipe.suites]
    if gate.suite.path.resolve() not in [suite.path.resolve() for suite in suites]:
        raise ConfigError(f"{gate.path} judges by {gate.suite.path}, which is not among the recipe's suites", hint="add it under `suites:`")
    known = {name for suite in suites for name in suite.score_names}
    for number, entry in enumerate(loaded.recipe.stages):
        for name in filter(None, (entry.target, *entry.guardrails)):
            if name not in known:
                raise ConfigError(f"{loaded.path}: stages.{number}: no suite has a score '{name}'", hint=suggest(name, known))
    return gate, suites


def _record_origins(loaded: LoadedRecipe, gate: Gate, suites: Sequence[Suite], root: Path) -> _Origins:
    """Put policy text, suites, gate, resolved recipe, code and library versions into the lineage."""
    store = LineageStore(root.parent / "lineage.db")
    policy_file = loaded.at(loaded.recipe.policy)
    policy = read_yaml(policy_file)
    fields = {
        "name": str(policy.get("name", "")),
        "version": str(policy.get("version", "")),
        "text": policy_file.read_text(encoding="utf-8"),
    }
    policy_id = store.put("policy", fields, files=[policy_file])
    suite_ids = {
        suite.path: store.put(
            "suite",
            {"name": suite.config.name, "version": suite.config.version, "hash": suite.hash, "num_cases": len(suite.cases)},
            files=[suite.path, suite.cases_path],
        )
        for suite in suites
    }
    gate_id = store.put("config", {"name": f"gate {gate.config.name}", **gate.config.dump()}, files=[gate.path])
    recipe_id = store.put("config", {"name": f"recipe {loaded.recipe.name}", **loaded.recipe.dump()})
    shared = (recipe_id, store.put("environment", environment_record()), store.put("code", code_record(loaded.root)))
    return _Origins(store, policy_id, suite_ids, gate_id, shared)


def _recorded_model(origins: _Origins | None, folder: Path, loaded: LoadedRecipe) -> Outputs:
    prepared = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert origins is not None
    content = {"name": "start model", "source": loaded.recipe.model.dump(), **prepared}
    return {"lineage": origins.store.put("model", content, files=[prepared["path"]])}


def _prepare_data(
    steps: Steps, loaded: LoadedRecipe, entry: StageEntry, start: StepResult, suites: Sequence[Suite], origins: _Origins | None
) -> StepResult:
    """Read and check a stage's data, then duplicates and contamination; the outputs name the clean file."""
    source = loaded.at(entry.settings["data"])
    card = source.with_name(source.name + ".card.yaml")
    inputs = {
        "data": file_hash(source) if source.is_file() else str(source),
        "card": file_hash(card) if card.is_file() else "none",
        "settings": {key: value for key, value in entry.settings.items() if key in ("mask", "on_bad_row")},
        "start": start.key,
        "policy": file_hash(loaded.at(loaded.recipe.policy)),
    }
    checked = steps.do(
        f"data-{entry.kind}",
        f"data for {entry.kind}: read, masks, lengths",
        inputs,
        lambda folder: describe_data(loaded, entry, source, Path(start.outputs["path"]), folder, steps.display),
    )
    curation = {"data": checked.key, "suites": [suite.hash for suite in suites], "settings": loaded.recipe.curation.dump()}

    def work(folder: Path) -> Outputs:
        assert origins is not None
        outputs = curate(loaded, entry, source, suites, folder, steps.display)
        parents = [*origins.suites.values()]
        if outputs["waived"]:
            waiver = {
                "what": f"contamination of {source.name}",
                "by": f"recipe {loaded.path.name}",
                "reason": loaded.recipe.curation.waiver,
            }
            parents.append(origins.store.put("waiver", waiver))
        content = {**read_yaml(card), "name": source.name, "rows": outputs["rows_kept"], "policy": origins.policy}
        original = origins.store.put("data", {**content, "rows": outputs["rows"]}, files=[source])
        clean = {**content, "provenance": "duplicates removed, checked against the suites"}
        return outputs | {
            "lineage": origins.store.put("data", clean, parents=[*parents, original, origins.policy], files=[outputs["path"]])
        }

    return steps.do(f"curate-{entry.kind}", f"data for {entry.kind}: duplicates, contamination against the suites", curation, work)


def _evaluate(steps: Steps, loaded: LoadedRecipe, suite: Suite, model: StepResult, name: str, origins: _Origins | None) -> StepResult:
    """Run one suite on the model a step made."""
    settings = loaded.recipe.evaluation
    inputs = {"suite": suite.hash, "model": model.key, "settings": settings.dump(), "versions": _versions()}

    def work(folder: Path) -> Outputs:
        from posttrain.evaluation import evaluate
        from posttrain.generation import LocalGenerator

        assert origins is not None
        generator = LocalGenerator.load(
            model.outputs["path"], model.outputs.get("adapter"), dtype=settings.dtype, batch_size=settings.batch_size
        )
        result = evaluate(
            suite,
            generator,
            out_dir=folder / "results",
            cache_dir=steps.out / "cache",
            on_progress=lambda p: steps.display.advance(p.num_done, p.num_total, f"{p.num_cached + p.num_reused} from before"),
            name=name,
            trained_at=model.outputs.get("trained_at"),
        )
        content = {"name": f"{suite.config.name} on {name}", "suite": suite.hash, "generator": dict(generator.identity)}
        files = [result.folder / "results.jsonl", result.folder / "summary.json"]
        parents = [model.outputs["lineage"], origins.suites[suite.path]]
        return {"results": str(result.folder), "lineage": origins.store.put("evaluation", content, parents=parents, files=files)}

    result = steps.do(
        f"evaluate-{name}-{suite.config.name}", f"evaluate {name} on {suite.config.name} ({len(suite.cases)} cases)", inputs, work
    )
    return StepResult(result.name, result.key, result.folder / "results", result.state, result.seconds, result.outputs)


def _train(
    steps: Steps,
    loaded: LoadedRecipe,
    entry: StageEntry,
    number: int,
    model: StepResult,
    data: StepResult,
    suites: Sequence[Suite],
    origins: _Origins | None,
) -> StepResult:
    """One training stage on the clean data, from the model the step before made."""
    settings = _with_seed(entry.settings, loaded.recipe.seed)
    comparable = {key: value for key, value in settings.items() if key != "data"}
    inputs = {"kind": entry.kind, "settings": comparable, "model": model.key, "data": data.key, "versions": _versions()}

    def work(folder: Path) -> Outputs:
        assert origins is not None
        began = folder / "began.json"
        if not began.exists():
            write_json(began, {"trained_at": datetime.now(UTC).isoformat()})
        stage = STAGES.get(entry.kind)
        config = stage.parse(settings | {"data": data.outputs["path"]}, where=f"{loaded.path}: stages.{number}.{entry.kind}")
        start = _as_one_model(model, folder)
        logger = build_loggers(loaded.recipe.loggers, folder / "logs", report=steps.display.say)
        try:
            result = stage.run(
                config,
                start,
                folder,
                lineage=origins.store,
                parents=[model.outputs["lineage"], data.outputs["lineage"], origins.policy, *origins.shared],
                progress=steps.display,
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

    return steps.do(f"{number + 1}-{entry.kind}", f"{entry.kind}: train", inputs, work)


def _as_one_model(model: StepResult, folder: Path) -> Path:
    """The folder a stage starts from: an adapter of the stage before is merged into its base first."""
    if not model.outputs.get("adapter"):
        return Path(model.outputs["path"])
    from posttrain.models import merge_adapter

    merged = folder / "start"
    if not (merged / "config.json").is_file():
        merge_adapter(model.outputs["path"], model.outputs["adapter"], merged)
    return merged


def _judge(steps: Steps, gate: Gate, before: StepResult, after: StepResult, origins: _Origins | None) -> StepResult:
    """The gate over the last evaluation against the start model's."""
    inputs = {"gate": content_hash(gate.config.dump()), "before": before.key, "after": after.key}

    def work(folder: Path) -> Outputs:
        assert origins is not None
        verdict = judge(after.folder, before.folder, gate)
        write_json(folder / "verdict.json", verdict.dump())
        write_junit(verdict, folder / "junit.xml")
        parents = [before.outputs["lineage"], after.outputs["lineage"], origins.gate]
        content = {"name": gate.config.name, "verdict": verdict.status, "headline": verdict.headline}
        lineage = origins.store.put("verdict", content, parents=parents, files=[folder / "verdict.json"])
        return {"verdict": verdict.status, "headline": verdict.headline, "exit_code": verdict.exit_code, "lineage": lineage}

    return steps.do("gate", f"gate {gate.config.name}", inputs, work)


def _with_seed(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Stage settings with the recipe's seed where the stage gives none of its own."""
    training = {"seed": seed, **(settings.get("training") or {})}
    return {**settings, "training": training}


def _versions() -> dict[str, str]:
    """Versions that decide a numeric result."""
    return {name: version(name) for name in ("posttrain", "torch", "transformers")}
