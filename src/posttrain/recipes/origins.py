"""What everything in a run descends from: policy text, suites, gate, recipe, code and libraries, put into the lineage first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from posttrain.config import read_yaml
from posttrain.evaluation import Suite
from posttrain.lineage import LineageStore, code_record, environment_record
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


def record_origins(loaded: LoadedRecipe, gate: Gate, suites: Sequence[Suite], root: Path) -> Origins:
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
    return Origins(store, policy_id, suite_ids, gate_id, shared)


def record_start_model(origins: Origins, folder: Path, loaded: LoadedRecipe) -> Outputs:
    """Put the start model, as ``folder/model.json`` describes it, into the lineage."""
    prepared = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    content = {"name": "start model", "source": loaded.recipe.model.dump(), **prepared}
    return {"lineage": origins.store.put("model", content, files=[prepared["path"]])}


def deciding_versions() -> dict[str, str]:
    """Versions that decide a numeric result."""
    return {name: version(name) for name in ("posttrain", "torch", "transformers")}
