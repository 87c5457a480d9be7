"""Run a recipe: start model -> data -> curation -> evaluation -> stages, each evaluated -> gate -> report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.config import content_hash
from posttrain.config.files import write_json
from posttrain.errors import ConfigError, suggest
from posttrain.evaluation import Suite
from posttrain.recipes.data_steps import prepare_data
from posttrain.recipes.model_steps import RunSoFar, evaluate_step, train_step
from posttrain.recipes.origins import Origins, deciding_versions, record_origins, record_start_model
from posttrain.recipes.recipe import LoadedRecipe
from posttrain.recipes.report import write_recipe_report
from posttrain.recipes.start_model import check_start_model, prepare_start_model, start_model_inputs
from posttrain.recipes.steps import Display, Outputs, StepResult, Steps, exclusive
from posttrain.release import Gate, judge, load_gate, write_junit
from posttrain.stages import STAGES


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run came to. ``verdict`` is the gate's (ship, block, inconclusive, infrastructure), empty in a dry run.

    ``caches``: folders of answers and reference log-probabilities that its steps use.
    """

    out: Path
    verdict: str
    headline: str
    report: Path
    before: Path
    after: Path
    steps: tuple[StepResult, ...]
    caches: frozenset[Path] = frozenset()


def run_recipe(loaded: LoadedRecipe, out: str | Path, *, display: Display, dry_run: bool = False) -> RunOutcome:
    """Run every step that is not done yet, and return the verdict and where the report is.

    Reward models are trained first where the recipe puts them first, so that the start model can be scored by them too: it is evaluated
    just before the first stage that trains the policy. Killed at any point and called again, it goes on where it was; finished steps are
    reused while nothing they depend on changed. Raises what the steps raise; a failed contamination check is CheckFailed, a suite or gate
    changed after training ConfigError.
    """
    recipe, root = loaded.recipe, Path(out)
    gate, suites = _load_criteria(loaded)
    with exclusive(root):
        origins = None if dry_run else record_origins(loaded, gate, suites, root)
        steps = Steps(root, display, dry_run=dry_run, discard=origins.store.discard if origins else None)

        def make_start(folder: Path) -> Outputs:
            assert origins is not None
            return prepare_start_model(loaded, folder, display) | record_start_model(origins, folder, loaded)

        start = steps.do("start-model", "start model", start_model_inputs(loaded), make_start)
        check_start_model(start)
        datasets = [prepare_data(steps, loaded, entry, start, suites, origins) for entry in recipe.stages]
        run = RunSoFar(steps, loaded, start, origins)
        before: list[StepResult] = []
        after: list[StepResult] = []
        current = start
        for entry, data in zip(recipe.stages, datasets, strict=True):
            if STAGES.get(entry.kind).makes == "reward_model":
                run.reward_models[entry.name] = train_step(run, entry, start, data)
                continue
            before = before or [evaluate_step(run, suite, start, "start") for suite in suites]
            current = train_step(run, entry, current, data)
            after = [evaluate_step(run, suite, current, entry.name) for suite in suites]
        place = [suite.path.resolve() for suite in suites].index(gate.suite.path.resolve())
        verdict = _judge(steps, gate, before[place], after[place], origins)
        if dry_run:
            return RunOutcome(
                root, "", "dry run: nothing was run", root / "report.html", Path(), Path(), tuple(steps.results), frozenset(steps.caches)
            )
        folders = before[place].folder, after[place].folder
        report = write_recipe_report(loaded, gate, steps.results, *folders, root / "report.html")
        return RunOutcome(
            root, verdict.outputs["verdict"], verdict.outputs["headline"], report, *folders, tuple(steps.results), frozenset(steps.caches)
        )


def _load_criteria(loaded: LoadedRecipe) -> tuple[Gate, list[Suite]]:
    """Gate and suites, frozen before training; the gate judges by one of the recipe's suites."""
    from posttrain.evaluation import load_suite

    gate = load_gate(loaded.at(loaded.recipe.gate))
    suites = [load_suite(loaded.at(path)) for path in loaded.recipe.suites]
    if gate.suite.path.resolve() not in [suite.path.resolve() for suite in suites]:
        raise ConfigError(f"{gate.path} judges by {gate.suite.path}, which is not among the recipe's suites", hint="add it under `suites:`")
    if len({suite.config.name for suite in suites}) < len(suites):
        raise ConfigError(
            f"{loaded.path}: two of its suites are called {sorted(suite.config.name for suite in suites)}",
            hint="give each suite a name of its own: results and the search for leaked cases go by it",
        )
    known = {name for suite in suites for name in suite.score_names}
    for number, entry in enumerate(loaded.recipe.stages):
        for name in filter(None, (entry.target, *entry.guardrails)):
            if name not in known:
                raise ConfigError(f"{loaded.path}: stages.{number}: no suite has a score '{name}'", hint=suggest(name, known))
    _check_reward_roles(loaded, suites)
    return gate, suites


def _check_reward_roles(loaded: LoadedRecipe, suites: Sequence[Suite]) -> None:
    """Every reward model a suite scores with is trained before the policy is: else the start model could not be scored."""
    makes = [STAGES.get(entry.kind).makes for entry in loaded.recipe.stages]
    first = makes.index("policy")
    early = {entry.name for entry in loaded.recipe.stages[:first]}
    for suite in suites:
        for role in suite.reward_roles:
            if role not in early:
                raise ConfigError(
                    f"{loaded.path}: {suite.path} scores with the reward model '{role}', which no stage before the policy's trains",
                    hint=f"add `- reward_model: {{...}}` with `name: {role}` above stage {first}; {suggest(role, early)}",
                )


def _judge(steps: Steps, gate: Gate, before: StepResult, after: StepResult, origins: Origins | None) -> StepResult:
    """The gate over the last evaluation against the start model's."""
    inputs = {"gate": content_hash(gate.config.dump()), "before": before.key, "after": after.key, "versions": deciding_versions("verdict")}

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
