"""Labels by a judge: answers kept on disk, the judge held against people first, everything recorded."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.config import content_hash
from posttrain.config.files import write_json
from posttrain.data import card_path, load_card, write_jsonl
from posttrain.data.comparisons import check_one_rubric
from posttrain.errors import DataError
from posttrain.judges.calibration import calibrate, check_floor, human_rubric, record
from posttrain.judges.pairwise import Ask, PairwiseJudge, Reply
from posttrain.lineage import LineageStore
from posttrain.records import Comparison, GenerationRequest

if TYPE_CHECKING:
    from posttrain.generation import Generator


def remembered(generator: "Generator", path: str | Path, on_answer: Callable[[int, int], None] | None = None) -> Ask:
    """Answers through the file ``path``: what it holds is not asked again, so a killed run goes on. Equal requests are asked once."""
    from posttrain.generation import answer_prompts

    def ask(requests: Sequence[GenerationRequest]) -> list[Reply]:
        named = [replace(one, id=content_hash([message.content for message in one.messages])[:24]) for one in requests]
        unique = {one.id: one for one in named}
        rows = answer_prompts(generator, list(unique.values()), path, on_answer=on_answer)
        replies = {row["id"]: Reply(str(row["text"]), row["finish_reason"] == "length") for row in rows}
        return [replies[one.id] for one in named]

    return ask


def label_checked(
    judge: PairwiseJudge,
    comparisons: Sequence[Comparison],
    human: Sequence[Comparison],
    *,
    out: str | Path,
    created: str,
    other_rubric: bool = False,
) -> dict[str, Any]:
    """Hold the judge against people, write ``OUT.calibration.json``, and only above the floor label ``comparisons`` into ``out``.

    ``other_rubric``: people may have judged under another rubric than the judge's; agreement then is that of two different questions.
    Raises CheckFailed below the floor: then ``out`` is not written (an older one is left as it is), the calibration is. Raises DataError,
    before the judge is asked anything, for rubrics that do not go together, and where no comparison gets a label.
    """
    rubric = judge.constitution.rubric
    others = {one.rubric for comparison in comparisons for one in comparison.judgements} - {rubric}
    if others:
        raise DataError(
            f"the comparisons have judgements under rubric '{min(others)}', and the judge's labels are under '{rubric}'",
            hint="let it label comparisons without judgements, or give the constitution the same rubric",
        )
    people = human_rubric(human)
    if people not in ("", rubric) and not other_rubric:
        raise DataError(
            f"people judged under rubric '{people}', and the judge judges under '{rubric}': two different questions",
            hint="give people's judgements under the same rubric, or accept the comparison with --other-rubric",
        )
    found, _ = calibrate(judge, human)
    write_json(f"{out}.calibration.json", {"identity": judge.identity, **found.to_dict()})
    check_floor(found, judge.constitution.floor)
    verdicts = judge.judge(comparisons)
    if not any(one.choice for one in verdicts):
        raise DataError(f"the judge gives none of {len(verdicts)} comparisons a label, so {out} is not written", hint="see its replies")
    labelled = judge.label(verdicts, created=created)
    check_one_rubric(labelled)
    write_jsonl(labelled, out)
    kinds = ("decided", "tie", "inconsistent", "unread")
    counts = {kind: sum(one.status == kind for one in verdicts) for kind in kinds}
    given = sum(one.choice is not None for one in verdicts)
    return {"out": str(out), "comparisons": len(verdicts), "labelled": given, **counts, "calibration": found.to_dict()}


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
    if found["human_rubric"] not in ("", found["rubric"]):
        lines.append(f"  people judged under another rubric: '{found['human_rubric']}', the judge under '{found['rubric']}'")
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
    """A figure with its interval; an end that is unbounded is not written."""
    if not figure:
        return "-"
    low, high = ("" if end is None else f"{end:.3f}" for end in (figure["low"], figure["high"]))
    return f"{figure['value']:.3f} [{low}, {high}]"
