"""What a recipe does to its data before training: describe it, drop duplicates, look for the suites in it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config import read_yaml
from posttrain.config.files import write_json
from posttrain.evaluation import Suite
from posttrain.recipes.recipe import LoadedRecipe, StageEntry
from posttrain.recipes.steps import Display, Outputs


def describe_data(loaded: LoadedRecipe, entry: StageEntry, source: Path, model: Path, folder: Path, display: Display) -> Outputs:
    """Read every row under the model's chat contract; lengths, supervised tokens and the mixture go to ``folder/data.json``.

    Raises DataError or ContractError for a broken row, CheckFailed for data without a card, licence or consent.
    """
    from posttrain.chat import ChatContract
    from posttrain.data import check_consent, load_card, mixture_report, read_records
    from posttrain.records import Demonstration

    card = load_card(source)
    check_consent(card)
    rule = entry.settings.get("on_bad_row", "stop")
    reader = read_records(source, Demonstration, on_bad_row=rule, rejects_path=folder / "rejects.jsonl")
    records = [record for record in reader if isinstance(record, Demonstration)]
    contract = ChatContract.load(model)
    sequences = list(contract.supervise_many(records, mask=entry.settings.get("mask", "assistant")))
    lengths, supervised = np.array([len(row) for row in sequences]), np.array([row.num_supervised for row in sequences])
    system = str(read_yaml(loaded.at(loaded.recipe.policy)).get("system_prompt", "")).strip()
    under_policy = sum(record.messages[0].role == "system" and record.messages[0].content.strip() == system for record in records)
    summary: dict[str, Any] = {
        "rows": len(records),
        "rows_skipped": reader.report.skipped,
        "tokens": int(lengths.sum()),
        "supervised_tokens": int(supervised.sum()),
        "longest": int(lengths.max()),
        "median_length": float(np.median(lengths)),
        "rows_without_supervision": int((supervised == 0).sum()),
        "rows_under_the_policy_text": under_policy,
        "contract": contract.hash,
        "card": card.dump(),
    }
    write_json(folder / "data.json", summary | {"mixture": mixture_report(records).to_dict()})
    counts = f"{summary['tokens']} tokens, {summary['supervised_tokens']} supervised, longest {summary['longest']}"
    display.say(f"{source.name}: {len(records)} rows, {counts}")
    if system and under_policy < len(records):
        display.say(f"note: {len(records) - under_policy} of {len(records)} rows do not carry the policy's system prompt")
    return summary


def curate(loaded: LoadedRecipe, entry: StageEntry, source: Path, suites: Sequence[Suite], folder: Path, display: Display) -> Outputs:
    """Duplicates out, suites looked for: writes the clean rows with their card, and the reports; raises CheckFailed on contamination."""
    from posttrain.data import contamination, duplicates, read_records, write_jsonl

    settings = loaded.recipe.curation
    rule = entry.settings.get("on_bad_row", "stop")
    records = list(read_records(source, on_bad_row=rule, rejects_path=folder / "rejects.jsonl"))
    found = duplicates(records, near_jaccard=settings.near_duplicate_jaccard)
    write_json(folder / "duplicates.json", found.to_dict())
    kept = [record for index, record in enumerate(records) if index not in found.dropped] if settings.drop_duplicates else records
    texts = {suite.config.name: list(suite.texts.items()) for suite in suites}
    report = contamination(kept, texts, ngram=settings.ngram)
    write_json(folder / "contamination.json", report.to_dict())
    report.check(settings.waiver or None)
    clean = folder / "train.jsonl"
    write_jsonl(kept, clean)
    shutil.copyfile(source.with_name(source.name + ".card.yaml"), clean.with_name(clean.name + ".card.yaml"))
    dropped, num_cases = len(records) - len(kept), sum(len(suite.cases) for suite in suites)
    display.say(f"{dropped} duplicates dropped; {len(report.hits)} of {num_cases} suite cases found in the training data")
    return {
        "path": str(clean),
        "rows": len(records),
        "rows_kept": len(kept),
        "duplicates": dropped,
        "contaminated_cases": len(report.hits),
        "waived": bool(report.hits),
    }
