"""Judged comparisons from the files people publish them in: PandaLM, FineGrainedRLHF, Open-Instruct's human evaluation, and our own rows.

Nothing is decided here: every judgement of the file is kept, with the annotator it names.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from posttrain.data.conversations import Row, text
from posttrain.data.readers import read_records
from posttrain.data.shapes import row_about, shape
from posttrain.data.sources import BadRow, open_source
from posttrain.errors import DataError
from posttrain.records import Choice, Comparison, FieldError, Judgement, Message, Record, check_record

PANDALM_RUBRIC = "pandalm-2023"
FINE_GRAINED_RUBRIC = "fine-grained-qa-2023"
HUMAN_EVAL_RUBRIC = "open-instruct-2023"
BY_NUMBER: dict[str, Choice] = {"0": "tie", "1": "a", "2": "b"}
FIVE_GRADES: dict[str, tuple[Choice, float]] = {
    "a-is-better": ("a", 2.0),
    "a-is-slightly-better": ("a", 1.0),
    "tie": ("tie", 0.0),
    "b-is-slightly-better": ("b", 1.0),
    "b-is-better": ("b", 2.0),
}
PREDICTIONS = tuple(f"prediction {number}" for number in range(1, 5))
SWAPPED: dict[str, Choice] = {"a": "b", "b": "a", "tie": "tie"}


def load_comparisons(path: str | Path) -> list[Comparison]:
    """All comparisons of a file, recognised by its columns. Rows about the same answers are joined where a row is one judgement.

    Read: PandaLM's test set (three annotators), FineGrainedRLHF's ``qa_feedback`` (four answers, six pairs a row), Open-Instruct's human
    evaluation (one judgement a row, five grades, evaluator ids) and our own rows (``prompt, completion_a, completion_b, judgements``;
    joined where they also have one ``id``).
    Raises DataError with file, row, field, value and fix.
    """
    source = open_source(path)
    first = next((row for _, row in source.rows() if isinstance(row, dict)), {})
    if first.keys() >= {"question", "preference", *PREDICTIONS}:
        return list(_fine_grained(Path(path)))
    reader = read_records(path, Comparison)
    comparisons = [record for record in reader if isinstance(record, Comparison)]
    if reader.report.shape == "open_instruct_human_eval":
        return merge(comparisons)
    return merge(comparisons, same_id=True) if reader.report.shape == "comparison" else comparisons


def merge(comparisons: Iterable[Comparison], *, same_id: bool = False) -> list[Comparison]:
    """Comparisons of the same two answers by the same models joined into the first of them, sides swapped where they stood otherwise.

    ``same_id``: only those of one id, and a judgement equal to one that is there is the same judgement.
    """
    found: dict[tuple[Any, ...], Comparison] = {}
    for one in comparisons:
        models = one.metadata.get("model_a"), one.metadata.get("model_b")
        name = one.id if same_id else ""
        key = (name, one.prompt, one.a, one.b, *models)
        mirrored = (name, one.prompt, one.b, one.a, *models[::-1])
        if key not in found and mirrored in found and one.a != one.b:
            key, one = mirrored, swap(one)
        if (kept := found.get(key)) is None:
            found[key] = one
        elif kept.gold and one.gold and kept.gold != one.gold:
            raise DataError(
                f"{one.id} and {kept.id} are one comparison with gold answers '{one.gold}' and '{kept.gold}'", hint="keep the right one"
            )
        else:
            again = kept.judgements if same_id else ()  # of a row that stands in the file twice
            added = tuple(judgement for judgement in one.judgements if judgement not in again)
            found[key] = replace(kept, judgements=kept.judgements + added, gold=kept.gold or one.gold)
    return list(found.values())


def latest_judgements(comparison: Comparison) -> tuple[Judgement, ...]:
    """The last judgement of every annotator: who judges again has one vote, and it is the newer one."""
    return tuple({one.annotator: one for one in comparison.judgements}.values())


def check_one_rubric(comparisons: Iterable[Comparison]) -> str:
    """The rubric version all judgements were made under ('' when there is none). Two versions raise DataError with their counts."""
    versions = Counter(judgement.rubric for comparison in comparisons for judgement in comparison.judgements)
    if len(versions) > 1:
        counts = ", ".join(f"'{version}' ({count} judgements)" for version, count in versions.most_common())
        raise DataError(
            f"judgements under {len(versions)} rubric versions cannot be mixed: {counts}",
            hint="they answer different questions: keep one version, or have the others judged again",
        )
    return next(iter(versions), "")


def swap(comparison: Comparison) -> Comparison:
    """The same comparison with sides a and b exchanged, and all that speaks of one side with them: ``model_a`` becomes ``model_b``."""
    ends = {"_a": "_b", "_b": "_a"}
    return replace(
        comparison,
        a=comparison.b,
        b=comparison.a,
        judgements=tuple(_swapped(judgement) for judgement in comparison.judgements),
        gold=SWAPPED[comparison.gold] if comparison.gold else None,
        metadata={name[:-2] + ends.get(name[-2:], name[-2:]): value for name, value in comparison.metadata.items()},
    )


def _swapped(judgement: Judgement) -> Judgement:
    """Dimensions that speak of one side are called ``a_...`` and ``b_...``."""
    sides = {"a_": "b_", "b_": "a_"}
    shown: dict[str | None, Literal["a", "b"] | None] = {"a": "b", "b": "a", None: None}
    dimensions = {sides.get(name[:2], name[:2]) + name[2:]: value for name, value in judgement.dimensions.items()}
    return replace(judgement, choice=SWAPPED[judgement.choice], first_shown=shown[judgement.first_shown], dimensions=dimensions)


@shape("pandalm", Comparison, "instruction response1 response2 annotator1 annotator2 annotator3")
def _pandalm(row: Row) -> Record:
    """PandaLM's test set (Wang et al. 2023, arXiv:2306.05087): 0 tie, 1, 2 by each of three annotators; ``cmp_key`` names the models.

    The file does not say which answer was shown first.
    """
    names = [f"annotator{number}" for number in (1, 2, 3)]
    parts = [text(row.get(column), column, required=False) for column in ("instruction", "input")]
    asked = "\n".join(part for part in parts if part.strip())
    about = row_about(row, "instruction", "input", "response1", "response2", *names)
    models = str(row.get("cmp_key") or "").split("_")
    if len(models) == 2:
        about["metadata"] = {**about["metadata"], "model_a": models[0], "model_b": models[1]}
    if row.get("idx") is not None:
        about["id"] = f"pandalm-{row['idx']}"
    return Comparison(
        prompt=(Message("user", asked),),
        a=(Message("assistant", text(row["response1"], "response1", required=False)),),
        b=(Message("assistant", text(row["response2"], "response2", required=False)),),
        judgements=tuple(Judgement(name, _by_number(row[name], name), PANDALM_RUBRIC) for name in names),
        **about,
    )


def _by_number(value: Any, field: str) -> Choice:
    if str(value) not in BY_NUMBER:
        raise FieldError(field, "is none of 0 (tie), 1, 2", value, fix="is this the original file?")
    return BY_NUMBER[str(value)]


@shape("open_instruct_human_eval", Comparison, "prompt completion_a completion_b preference evaluator")
def _human_eval(row: Row) -> Record:
    """Open-Instruct's human evaluation (Wang et al. 2023, arXiv:2306.04751): one evaluator's five-grade choice, A shown first."""
    grade = str(row["preference"])
    if grade not in FIVE_GRADES:
        raise FieldError("preference", "is none of the five grades", grade, fix=f"use: {', '.join(FIVE_GRADES)}")
    choice, strength = FIVE_GRADES[grade]
    acceptable = {f"{side}_is_acceptable": str(row.get(f"completion_{side}_is_acceptable") or "") for side in ("a", "b")}
    used = ("prompt", "completion_a", "completion_b", "preference", "evaluator", "timestamp", "comment")
    about = row_about(row, *used, "completion_a_is_acceptable", "completion_b_is_acceptable")
    judgement = Judgement(
        annotator=text(row["evaluator"], "evaluator"),
        choice=choice,
        rubric=HUMAN_EVAL_RUBRIC,
        strength=strength,
        first_shown="a",
        dimensions={name: value for name, value in acceptable.items() if value},
    )
    return Comparison(
        prompt=(Message("user", text(row["prompt"], "prompt")),),
        a=(Message("assistant", text(row["completion_a"], "completion_a")),),
        b=(Message("assistant", text(row["completion_b"], "completion_b")),),
        judgements=(judgement,),
        **about,
    )


def _fine_grained(path: Path) -> Iterator[Comparison]:
    """FineGrainedRLHF's ``qa_feedback`` (Wu et al. 2023, arXiv:2306.01693): pairs 12 13 14 23 24 34; 0 equal, 1 first, 2 second better."""
    pairs = list(combinations(range(4), 2))
    for position, row in open_source(path).rows():
        try:
            if isinstance(row, BadRow):
                raise FieldError("row", row.problem, row.raw, fix=row.fix)
            labels = row.get("preference")
            if not isinstance(labels, list) or len(labels) != len(pairs):
                raise FieldError("preference", "is not a list of six labels", labels, fix="pairs 12 13 14 23 24 34, one label each")
            answers = [Message("assistant", text(row.get(name), name)) for name in PREDICTIONS]
            prompt = (Message("user", _question(row)),)
            for (first, second), label in zip(pairs, labels, strict=True):
                comparison = Comparison(
                    prompt,
                    (answers[first],),
                    (answers[second],),
                    (Judgement("qa_feedback", _by_number(label, "preference"), FINE_GRAINED_RUBRIC),),
                    id=f"{path.name}:{position}:{first + 1}{second + 1}",
                    source=path.name,
                    metadata={"question": row["question"], "group": f"{path.name}:{position}"},
                )
                check_record(comparison)
                yield comparison
        except FieldError as error:
            raise DataError(f"{path}, row {position}: {error.message}", hint=error.hint) from None


def _question(row: Row) -> str:
    """The passages, each with its title, and the question below them."""
    passages = row.get("passages") or []
    if not isinstance(passages, list) or not all(isinstance(one, list) and one for one in passages):
        raise FieldError("passages", "is not a list of [title, sentence, ...]", passages, fix="is this the original file?")
    blocks = [f"{one[0]}\n{' '.join(map(str, one[1:]))}" for one in passages]
    return "\n\n".join([*blocks, f"Question: {text(row.get('question'), 'question')}"])
