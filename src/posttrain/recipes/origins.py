"""What everything in a run descends from: policy text, suites, gate, recipe, code and libraries, put into the lineage first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from posttrain.config import read_yaml
from posttrain.evaluation import Suite
from posttrain.lineage import LineageStore, code_record, environment_record, source_hash
from posttrain.recipes.recipe import LoadedRecipe
from posttrain.recipes.steps import Outputs
from posttrain.release import Gate


@dataclass(frozen=True, slots=True)
class Origins:
    """Lineage ids that everything in the run descends from."""

    store: LineageStore
    policy: str
    suites: Mapping[Path, str]
    gate: str
    shared: tuple[str, ...]


def run_store(root: Path) -> LineageStore:
    """The lineage store of the run in ``root``, shared with the runs beside it."""
    return LineageStore(root.parent / "lineage.db")


def record_origins(loaded: LoadedRecipe, gate: Gate, suites: Sequence[Suite], root: Path) -> Origins:
    """Put policy text, suites, gate, resolved recipe, code and library versions into the lineage."""
    store = run_store(root)
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
    return Origins(store, policy_id, suite_ids, gate_id, shared)


def record_start_model(origins: Origins, folder: Path, loaded: LoadedRecipe) -> Outputs:
    """Put the start model, as ``folder/model.json`` describes it, into the lineage."""
    prepared = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    content = {"name": "start model", "source": loaded.recipe.model.dump(), **prepared}
    return {"lineage": origins.store.put("model", content, files=[prepared["path"]])}


_SHOWS = ("cli", "drills", "lineage", "recipes/advise.py", "recipes/display.py", "recipes/report.py")
NOT_DECIDING = {
    "model": (*_SHOWS, "evaluation", "release"),
    "evaluation": (*_SHOWS, "release"),
    "verdict": _SHOWS,
}
"""Parts of the package, by what a step makes, that its result does not depend on: a gate can be mended without training again."""


def deciding_versions(makes: Literal["model", "evaluation", "verdict"] = "model") -> dict[str, str]:
    """What decides a result besides the inputs: the libraries, and posttrain's own code by its content."""
    libraries = ("posttrain", "torch", "transformers", "tokenizers", "numpy", "peft")
    return {"code": source_hash(NOT_DECIDING[makes]), **{name: version(name) for name in libraries}}
