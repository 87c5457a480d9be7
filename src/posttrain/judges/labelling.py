"""Labels by a judge: answers kept on disk, the judge held against people first, everything recorded."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.config import content_hash
from posttrain.config.files import write_json
from posttrain.data import card_path, load_card, write_jsonl
from posttrain.judges.calibration import calibrate, check_floor, record
from posttrain.judges.pairwise import Ask, PairwiseJudge
from posttrain.lineage import LineageStore
from posttrain.records import Comparison, GenerationRequest

if TYPE_CHECKING:
    from posttrain.generation import Generator


def remembered(generator: "Generator", path: str | Path, on_answer: Callable[[int, int], None] | None = None) -> Ask:
    """Answers through the file ``path``: what it holds is not asked again, so a killed run goes on. Equal requests are asked once."""
    from posttrain.generation import answer_prompts

    def ask(requests: Sequence[GenerationRequest]) -> list[str]:
        named = [replace(one, id=content_hash([message.content for message in one.messages])[:24]) for one in requests]
        unique = {one.id: one for one in named}
        rows = answer_prompts(generator, list(unique.values()), path, on_answer=on_answer)
        replies = {row["id"]: str(row["text"]) for row in rows}
        return [replies[one.id] for one in named]

    return ask


def label_checked(
    judge: PairwiseJudge, comparisons: Sequence[Comparison], human: Sequence[Comparison], *, out: str | Path, created: str
) -> dict[str, Any]:
    """Hold the judge against people, write ``OUT.calibration.json``, and only above the floor label ``comparisons`` into ``out``.

    Raises CheckFailed below the floor: then ``out`` is not written (an older one is left as it is), the calibration is.
    """
    found, _ = calibrate(judge, human)
    write_json(f"{out}.calibration.json", {"identity": judge.identity, **found.to_dict()})
    check_floor(found, judge.constitution.floor)
    verdicts = judge.judge(comparisons)
    write_jsonl(judge.label(verdicts, created=created), out)
    kinds = ("decided", "tie", "inconsistent", "unread")
    counts = {kind: sum(one.status == kind for one in verdicts) for kind in kinds}
    labelled = sum(one.choice is not None for one in verdicts)
    return {"out": str(out), "comparisons": len(verdicts), "labelled": labelled, **counts, "calibration": found.to_dict()}


def record_labels(store: LineageStore, judge: PairwiseJudge, *, source: Path, out: Path, done: dict[str, Any]) -> str:
    """Put constitution, calibration and labels into the lineage; the id of the last. The labels keep the card of ``source``.

    Without a card beside ``source`` only constitution and calibration are recorded: such labels cannot enter training until there is one.
    """
    constitution = store.put("constitution", record(judge.constitution))
    content = {"name": judge.name, "judge": judge.identity, "calibration": done["calibration"]}
    calibration = store.put("evaluation", content, parents=[constitution], files=[f"{out}.calibration.json"])
    if not card_path(source).is_file():
        return calibration
    shutil.copyfile(card_path(source), card_path(out))
    card = load_card(out).dump()
    counts = {name: done[name] for name in ("comparisons", "labelled", "inconsistent", "unread")}
    return store.put("data", {**card, "path": str(out), "judge": judge.name, **counts}, parents=[constitution, calibration], files=[out])


def calibration_lines(done: dict[str, Any]) -> list[str]:
    """What was labelled and how good the judge is, for the terminal."""
    found = done["calibration"]
    lines = [
        f"{done['out']}: {done['labelled']} of {done['comparisons']} comparisons labelled "
        f"({done['tie']} ties, {done['inconsistent']} depend on the order, {done['unread']} not readable)",
        f"judge {found['judge']} under {found['constitution']}, held against {found['comparisons']} comparisons by people:",
    ]
    names = {
        "kappa": "kappa with people",
        "accuracy": "agrees with people",
        "coverage": "gives a label",
        "first_chosen": "first shown chosen",
        "inconsistent": "orders disagree",
        "longer_chosen": "longer chosen",
        "human_longer_chosen": "longer chosen by people",
        "longer_against_people": "longer, against people",
    }
    return lines + [f"  {name:<24} {_figure(found[key])}" for key, name in names.items()]


def _figure(figure: dict[str, Any] | None) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" if figure else "-"
