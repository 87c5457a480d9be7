"""The steps of a run that turn a stage's data file into clean rows: labels into pairs, reading and masks, duplicates, contamination."""

import json
from collections.abc import Sequence
from pathlib import Path

from posttrain.config import content_hash, file_hash, path_hash, read_yaml
from posttrain.evaluation import Suite
from posttrain.recipes.curation import curate, describe_data, pairs_of_judgements
from posttrain.recipes.origins import Origins, deciding_versions
from posttrain.recipes.recipe import LoadedRecipe, StageEntry
from posttrain.recipes.steps import Outputs, StepResult, Steps


def prepare_data(
    steps: Steps, loaded: LoadedRecipe, entry: StageEntry, start: StepResult, suites: Sequence[Suite], origins: Origins | None
) -> StepResult:
    """Read and check a stage's data, then duplicates and contamination; the outputs name the clean file."""
    source = loaded.at(entry.settings["data"])
    card = source.with_name(source.name + ".card.yaml")
    inputs = {
        "data": path_hash(source),
        "card": file_hash(card) if card.is_file() else "none",
        "settings": {key: value for key, value in entry.settings.items() if key in ("mask", "on_bad_row")},
        "start": start.key,
        "policy": file_hash(loaded.at(loaded.recipe.policy)),
        "versions": deciding_versions(),
    }
    if entry.labels is not None:
        labels = entry.labels
        judged = steps.do(
            f"labels-{entry.name}",
            f"labels for {entry.name}: agreement, annotators, pairs",
            {"data": inputs["data"], "card": inputs["card"], "labels": labels.dump(), "versions": deciding_versions()},
            lambda folder: pairs_of_judgements(labels, source, folder, steps.display),
        )
        inputs["labels"] = judged.key
        source = Path(judged.outputs.get("path", source))

    checked = steps.do(
        f"data-{entry.name}",
        f"data for {entry.name}: read, masks, lengths",
        inputs,
        lambda folder: describe_data(loaded, entry, source, Path(start.outputs["path"]), folder, steps.display),
    )
    curation = {
        "data": checked.key,
        "suites": [suite.hash for suite in suites],
        "texts": content_hash([suite.texts for suite in suites]),
        "settings": loaded.recipe.curation.dump(),
        "versions": deciding_versions(),
    }

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
        original = origins.store.put("data", {**content, "rows": outputs["rows"]}, files=[loaded.at(entry.settings["data"])])
        provenance = "duplicates removed, checked against the suites"
        if entry.labels is not None:
            provenance = f"pairs from judgements ({json.dumps(entry.labels.dump())}), {provenance}"
        clean = {**content, "provenance": provenance}
        return outputs | {
            "lineage": origins.store.put("data", clean, parents=[*parents, original, origins.policy], files=[outputs["path"]])
        }

    return steps.do(f"curate-{entry.name}", f"data for {entry.name}: duplicates, contamination against the suites", curation, work)
