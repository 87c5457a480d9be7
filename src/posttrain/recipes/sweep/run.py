"""A preference stage over a grid of beta and learning rate: one reference pass, every point trained, measured, kept when interrupted."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.config import content_hash, parse, path_hash
from posttrain.config.files import write_json
from posttrain.errors import ConfigError
from posttrain.lineage import LineageStore
from posttrain.recipes.origins import deciding_versions
from posttrain.recipes.steps import Display, Outputs, Steps, exclusive
from posttrain.recipes.sweep.measure import SampleSettings, measure
from posttrain.recipes.sweep.record import SweepRecord
from posttrain.recipes.sweep.report import write_page
from posttrain.recipes.sweep.source import SweepSource, check_disjoint, hold_out, prompt_key
from posttrain.stages.pairs import PreferenceData, PreferenceRules, load_pairs
from posttrain.stages.preference import PreferenceConfig, run_preference
from posttrain.stages.setup import token_limit

FEW_PROMPTS = 30
"""Held-out prompts below which the reader is told that intervals are wide."""

if TYPE_CHECKING:
    from posttrain.chat import ChatContract


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """The grid (an empty side keeps the stage's own value), the pairs to measure on (empty: a tenth held out), and what stays on disk."""

    betas: Sequence[float] = ()
    learning_rates: Sequence[float] = ()
    test: str = ""
    samples: SampleSettings = field(default_factory=SampleSettings)
    keep_models: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """One combination: its name, what it sets, and the whole stage as it is trained there."""

    name: str
    beta: float
    learning_rate: float
    config: PreferenceConfig


def run_sweep(
    source: SweepSource, options: SweepOptions, out: str | Path, *, display: Display, lineage: LineageStore | None = None
) -> dict[str, Any]:
    """Train and measure every point not done yet; writes ``out/sweep.json`` and ``out/sweep.html`` after each, and returns the former.

    ``lineage``: where every point's model, settings, reference and figures are recorded; its id is the point's ``lineage`` in the report.

    A finished point is reused while nothing it depends on changed, an interrupted one goes on where it was. Models are measured and let
    go unless ``keep_models``: the recipe with a point's values makes the same one again. Raises ConfigError before anything runs when a
    value of the grid is out of bounds, DataError for held-out pairs that are trained on, and what the stage raises.
    """
    root = Path(out)
    with exclusive(root):
        source = _as_one_model(source, root)
        seed = int((source.settings.get("training") or {}).get("seed", 17))
        source, test = (source, Path(options.test)) if options.test else hold_out(source, root / "data", seed=seed)
        check_disjoint(source, test)
        adapter = source.settings.get("adapter")
        files = [path_hash(path) for path in (source.model, source.data, test, *([adapter] if adapter else []))]
        cache = root / "reference" / _cache_name(source, files, seed)
        points = grid(source, options, cache)
        contract, pairs = _held_out(source, points[0].config, test)
        if (num_prompts := len({prompt_key(record) for record in pairs.records})) < FEW_PROMPTS:
            display.say(f"only {num_prompts} held-out prompts: the intervals will tell few points apart")
        record = SweepRecord(lineage, source, test, cache, contract) if lineage else None
        results: list[dict[str, Any]] = []
        report: dict[str, Any] = {}
        for number, point in enumerate(points, 1):
            steps = Steps(root / "points" / point.name, _Numbered(display, number), discard=lineage.discard if lineage else None)
            inputs = {
                "settings": {key: value for key, value in point.config.dump().items() if key not in ("data", "reference_cache")},
                "files": files,
                "samples": [options.samples.count, options.samples.max_new_tokens, options.keep_models],
                "versions": deciding_versions(),
            }
            work = _work(point, source, pairs, cache, contract=contract, options=options, display=display, record=record)
            done = steps.do("point", f"beta {point.beta:g}, learning rate {point.learning_rate:g}", inputs, work)
            results.append({"name": point.name, "beta": point.beta, "learning_rate": point.learning_rate, **done.outputs})
            report = _report(source, points[0].config, test, pairs, results, len(points))
            write_json(root / "sweep.json", report)
            write_page(root / "sweep.html", report)
    return report


def _cache_name(source: SweepSource, files: Sequence[str], seed: int) -> str:
    """A name for everything the reference pass may depend on: other data or another model is another cache, beta and rate are not."""
    objective = source.settings.get("objective", "dpo")
    rest = {key: value for key, value in source.settings.items() if key not in ("objective", "training", "data")}
    name = objective if isinstance(objective, str) else objective.get("name")
    return content_hash([files, name, rest, seed, deciding_versions()])[:12]


def grid(source: SweepSource, options: SweepOptions, cache: Path) -> list[Point]:
    """Every combination as a checked configuration that shares one reference cache."""
    raw = source.settings.get("objective", "dpo")
    objective: Mapping[str, Any] = {"name": raw} if isinstance(raw, str) else raw
    points = []
    for beta, rate in product(options.betas or (None,), options.learning_rates or (None,)):
        settings = {**source.settings, "reference_cache": str(cache)}
        settings["objective"] = {**objective, **({} if beta is None else {"beta": beta})}
        settings["training"] = {**(source.settings.get("training") or {}), **({} if rate is None else {"learning_rate": rate})}
        config = parse(PreferenceConfig, settings, where=f"sweep of {source.name}")
        hyperparameters, own_rate = dict(config.objective), config.training.learning_rate
        if "beta" not in hyperparameters:
            raise ConfigError(
                f"objective '{config.objective_name}' has no beta to sweep", hint="take one that has: dpo, ipo, simpo, orpo, kto"
            )
        found = float(hyperparameters["beta"])
        points.append(Point(f"beta-{found:g}-lr-{own_rate:g}", found, own_rate, config))
    if len({point.name for point in points}) < len(points):
        raise ConfigError("the grid has the same point twice", hint="give every beta and learning rate once")
    return points


def _held_out(source: SweepSource, config: PreferenceConfig, test: Path) -> "tuple[ChatContract, PreferenceData]":
    """The start model's contract, and the held-out pairs under it; pairs too long for the model are left out."""
    from posttrain.chat import ChatContract

    contract = ChatContract.load(source.model)
    rules = PreferenceRules(token_limit(config.max_tokens, source.model), config.on_bad_row, on_too_long="drop")
    return contract, load_pairs(str(test), contract, rules)


def _as_one_model(source: SweepSource, root: Path) -> SweepSource:
    """The source with the adapter of the stage before merged into its base."""
    if source.adapter is None:
        return source
    from posttrain.models import merge_adapter

    merged = root / f"start-{content_hash([path_hash(source.model), path_hash(source.adapter)])[:12]}"
    if not (merged / "config.json").is_file():
        merge_adapter(source.model, source.adapter, merged)
    return replace(source, model=merged, adapter=None)


def _work(
    point: Point,
    source: SweepSource,
    pairs: PreferenceData,
    cache: Path,
    *,
    contract: "ChatContract",
    options: SweepOptions,
    display: Display,
    record: SweepRecord | None,
) -> Callable[[Path], Outputs]:
    """What a point does in its folder: train, measure, let the model go."""

    def work(folder: Path) -> Outputs:
        from posttrain.models import ModelSettings

        result = run_preference(point.config, source.model, folder, progress=display)
        display.say("trained; measuring on held-out pairs and fresh answers")
        start = ModelSettings(path=str(source.model), adapter=point.config.adapter, dtype=point.config.dtype, compile=False)
        changes = {"path": str(result.model), "adapter": str(result.adapter) if result.adapter else None}
        found = measure(start.model_copy(update=changes), start, pairs, cache / "held-out", contract=contract, samples=options.samples)
        if not options.keep_models:
            for name in ("model", "adapter", "checkpoints"):
                shutil.rmtree(folder / name, ignore_errors=True)
        kept = result.adapter or result.model if options.keep_models else None
        figures: Outputs = {"measured": found.dump(), "training": {key: result.metrics[key] for key in ("steps", "final_loss")}}
        recorded = {"lineage": record.put(point.name, point.config, folder, kept, figures)} if record else {}
        return figures | {"model": str(kept) if kept else None} | recorded

    return work


def _report(
    source: SweepSource, config: PreferenceConfig, test: Path, pairs: PreferenceData, results: Sequence[dict[str, Any]], total: int
) -> dict[str, Any]:
    return {
        "stage": source.name,
        "objective": config.objective_name,
        "model": str(source.model),
        "data": str(source.data),
        "held_out": str(test),
        "num_pairs": len(pairs.items),
        "num_prompts": len({prompt_key(record) for record in pairs.records}),
        "points": list(results),
        "points_planned": total,
        "frontier": frontier(results),
    }


def frontier(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of points that no other beats: with at least their margin, at most their drift, and better in one of the two."""

    def figures(point: Mapping[str, Any]) -> tuple[float, float]:
        return point["measured"]["margin"]["value"], -point["measured"]["kl"]["value"]

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] >= other[0] and one[1] >= other[1]

    return [str(point["name"]) for point in points if not any(beats(figures(other), figures(point)) for other in points)]


class _Numbered:
    """A display on which the only step of every point has the point's number."""

    def __init__(self, display: Display, number: int) -> None:
        self._number = number
        self._display, self.advance, self.say = display, display.advance, display.say

    def step(self, number: int, title: str, state: str) -> None:
        self._display.step(self._number, title, state)
