"""What a recipe does to its data before training: describe it, drop duplicates, look for the suites in it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.config import read_yaml
from posttrain.config.files import write_json
from posttrain.errors import DataError
from posttrain.evaluation import Suite
from posttrain.recipes.recipe import LabelSettings, LoadedRecipe, StageEntry
from posttrain.recipes.steps import Display, Outputs
from posttrain.records import Comparison, Demonstration, PreferencePair, PromptOnly, Record, TokenSequence, UnpairedLabel
from posttrain.stages import STAGES

if TYPE_CHECKING:
    from posttrain.chat import ChatContract, MaskKind
    from posttrain.data import RecordReader
    from posttrain.feedback import Method, PairSet


def pairs_of_judgements(labels: LabelSettings, source: Path, folder: Path, display: Display) -> Outputs:
    """Check the judgements of a file of comparisons and make pairs with soft labels of them; the report goes to ``folder/labels.json``.

    Each source is a labelling project of its own, with its annotators and its rubric; one that nobody judged twice keeps its labels, as
    there is nothing to weigh. Raises DataError for labels of two rubric versions in one source, CheckFailed for data without consent.
    """
    from posttrain.data import check_consent, load_card, write_jsonl
    from posttrain.data.comparisons import load_comparisons
    from posttrain.feedback import build_pairs, label_quality

    check_consent(load_card(source))
    comparisons = load_comparisons(source)
    sources: dict[str, list[Comparison]] = {}
    for one in comparisons:
        sources.setdefault(one.source, []).append(one)
    reports, found = {}, {}
    for name, rows in sources.items():
        judged_twice = any(len({judgement.annotator for judgement in row.judgements}) > 1 for row in rows)
        method: Method = labels.method if judged_twice else "majority"
        found[name] = build_pairs(rows, method=method, min_confidence=labels.min_confidence)
        reports[name] = label_quality(rows).to_dict()
        display.say(f"{name}: {_told(found[name])}")
    write_json(folder / "labels.json", {name: {"pairs": found[name].to_dict(), "quality": reports[name]} for name in found})
    pairs = [pair for made in found.values() for pair in made.pairs]
    clean = folder / "pairs.jsonl"
    write_jsonl(pairs, clean)
    shutil.copyfile(source.with_name(source.name + ".card.yaml"), clean.with_name(clean.name + ".card.yaml"))
    soft = sum(made.soft for made in found.values())
    display.say(f"{source.name}: {len(comparisons)} comparisons, {len(pairs)} pairs, {soft} of them with a soft label")
    return {"path": str(clean), "comparisons": len(comparisons), "pairs": len(pairs), "soft": soft}


def _told(made: "PairSet") -> str:
    left_out = "".join(f", {count} left out ({reason})" for reason, count in made.left_out.items())
    return f"{made.comparisons} comparisons -> {len(made.pairs)} pairs by {made.method}, rubric {made.rubric}{left_out}"


def describe_data(loaded: LoadedRecipe, entry: StageEntry, source: Path, model: Path, folder: Path, display: Display) -> Outputs:
    """Read every row under the model's chat contract; lengths, supervised tokens and the mixture go to ``folder/data.json``.

    Raises DataError or ContractError for a broken row or rows the stage has no use for, CheckFailed for data without a card, licence or
    consent.
    """
    from posttrain.chat import ChatContract
    from posttrain.data import check_consent, load_card, mixture_report

    card, stage = load_card(source), STAGES.get(entry.kind)
    check_consent(card)
    reader = read_rows(entry, source, folder)
    records = list(reader)
    wrong = next((record for record in records if not isinstance(record, stage.records)), None)
    if wrong is not None:
        wanted = " or ".join(kind.__name__ for kind in stage.records)
        fix = "give the stage `labels: {method: dawid_skene}`" if isinstance(wrong, Comparison) else "give it another file"
        raise DataError(f"{source}: holds {type(wrong).__name__} rows; the stage '{entry.name}' trains on {wanted}", hint=fix)
    contract = ChatContract.load(model)
    sequences = _sequences(contract, records, entry.settings.get("mask", "assistant"))
    lengths, supervised = np.array([len(row) for row in sequences]), np.array([row.num_supervised for row in sequences])
    summary: dict[str, Any] = {
        "rows": len(records),
        "rows_skipped": reader.report.skipped,
        "tokens": int(lengths.sum()),
        "supervised_tokens": int(supervised.sum()),
        "longest": int(lengths.max()),
        "median_length": float(np.median(lengths)),
        "rows_without_supervision": 0 if PromptOnly in stage.records else int((supervised == 0).sum()),
        "contract": contract.hash,
        "card": card.dump(),
    }
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    if pairs:
        summary["soft_labels"] = sum(0.0 < pair.probability < 1.0 for pair in pairs)
        summary["not_for_imitation"] = sum(pair.metadata.get("imitation") is False for pair in pairs)
    system = str(read_yaml(loaded.at(loaded.recipe.policy)).get("system_prompt", "")).strip()
    if system:
        summary["rows_under_the_policy_text"] = sum(_system_prompt(record) == system for record in records)
    write_json(folder / "data.json", summary | {"mixture": mixture_report(records).to_dict()})
    counts = f"{summary['tokens']} tokens, {summary['supervised_tokens']} supervised, longest {summary['longest']}"
    display.say(f"{source.name}: {len(records)} rows, {counts}")
    if reader.report.rejects_path:
        display.say(f"set aside: {reader.report.skipped} rows, in {reader.report.rejects_path}")
    if system and summary["rows_under_the_policy_text"] < len(records):
        missing = len(records) - summary["rows_under_the_policy_text"]
        display.say(f"note: {missing} of {len(records)} rows do not carry the policy's system prompt")
    return summary


def read_rows(entry: StageEntry, source: Path, folder: Path) -> "RecordReader":
    """The rows of a stage's data; those set aside go to ``folder/rejects.jsonl``."""
    from posttrain.data import read_for_prompts, read_records

    read = read_for_prompts if PromptOnly in STAGES.get(entry.kind).records else read_records
    return read(source, on_bad_row=entry.settings.get("on_bad_row", "stop"), rejects_path=folder / "rejects.jsonl")


def _sequences(contract: "ChatContract", records: Sequence[Record], mask: "MaskKind") -> list[TokenSequence]:
    """Every sequence the rows train: a conversation, each completion of a pair or label after its prompt, or a prompt alone."""
    demonstrations = [record for record in records if isinstance(record, Demonstration)]
    sequences = list(contract.supervise_many(demonstrations, mask=mask, first_index=1))
    for index, record in enumerate(records, 1):
        match record:
            case PreferencePair():
                completions = [record.chosen, record.rejected]
            case UnpairedLabel():
                completions = [record.completion]
            case PromptOnly():
                ids = contract.encode(record.prompt, tools=record.tools, add_generation_prompt=True)
                sequences.append(TokenSequence(ids, np.zeros(len(ids), dtype=bool), index))
                continue
            case _:
                continue
        sequences += [contract.encode_completion(record.prompt, one, tools=record.tools, index=index) for one in completions]
    return sequences


def _system_prompt(record: Record) -> str:
    messages = record.messages if isinstance(record, Demonstration) else record.prompt
    return messages[0].content.strip() if messages[0].role == "system" else ""


def curate(loaded: LoadedRecipe, entry: StageEntry, source: Path, suites: Sequence[Suite], folder: Path, display: Display) -> Outputs:
    """Duplicates out, suites looked for: writes the clean rows with their card, and the reports; raises CheckFailed on contamination."""
    from posttrain.data import contamination, duplicates, write_jsonl

    settings = loaded.recipe.curation
    records = list(read_rows(entry, source, folder))
    found = duplicates(records, near_jaccard=settings.near_duplicate_jaccard)
    write_json(folder / "duplicates.json", found.to_dict() | {"dropped": settings.drop_duplicates})
    kept = [record for index, record in enumerate(records) if index not in found.dropped] if settings.drop_duplicates else records
    texts = {suite.config.name: list(suite.texts.items()) for suite in suites}
    prompts = {suite.config.name: _own_prompts(suite) for suite in suites}
    report = contamination(kept, texts, prompts=prompts, ngram=settings.ngram)
    write_json(folder / "contamination.json", report.to_dict())
    if told := report.short_cases():
        display.say(told)
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


def _own_prompts(suite: Suite) -> dict[str, str]:
    """What cases ask, where that makes them: in a world one question has many answers."""
    from posttrain.data import speech

    return {case.id: speech(case.messages) for case in suite.cases if "world" not in case.metadata}
