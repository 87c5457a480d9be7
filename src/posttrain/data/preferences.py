"""The preference recipe's data: real comparisons from three sources, split by prompt into training, calibration, test and suite.

Sources, as published: HH-RLHF harmless (one label a pair; harmful answers on either side, so never to be imitated), FineGrainedRLHF
(question answering over passages, six pairs a question) and PandaLM (three annotators a pair). A prompt and everything about it lies on
one side of every split. Nothing is labelled here: the recipe's own steps turn judgements into pairs.

Command: ``python -m posttrain.data.preferences HH FINE_GRAINED PANDALM`` (rewrites the shipped files).
"""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from posttrain.config.files import write_text
from posttrain.data.comparisons import load_comparisons
from posttrain.data.finops import lines, write_gzip
from posttrain.data.readers import read_records
from posttrain.data.writing import record_to_row
from posttrain.records import Comparison, Judgement, Message, PreferencePair, Record

HH_RUBRIC = "hh-rlhf-harmless-2022"
MAX_CHARACTERS = {"harmless": 700, "qa": 1900, "instructions": 800}
"""Longest pair, prompt and both answers, so that the recipe fits into its time."""
MAX_PASSAGES = 800
CASES_A_SLICE = 30
PAIRS_A_PROMPT = {"harmless": 1, "qa": 4, "instructions": 4}
SPLITS: Mapping[str, Mapping[str, int]] = {
    "policy": {"harmless": 120, "qa": 60, "instructions": 60},
    "reward": {"harmless": 250, "qa": 40, "instructions": 40},
    "held-out": {"harmless": 250, "qa": 40, "instructions": 40},
    "calibration": {"harmless": 50, "qa": 20, "instructions": 15},
    "test": {"harmless": 240, "qa": 150, "instructions": 50},
}
"""Comparisons of each source in each file; prompts are drawn in this order after the suite's."""
FOLDER, SUITE = Path("recipes/data"), Path("suites/preference.jsonl")


@dataclass(frozen=True, slots=True)
class PreferenceData:
    """training: comparisons by file. pairs: pairs with the majority's choice, by file. cases: rows of the suite. counts: what was kept."""

    training: Mapping[str, list[Comparison]]
    pairs: Mapping[str, list[PreferencePair]]
    cases: list[dict[str, Any]]
    counts: Mapping[str, int]


def build_preferences(hh: str | Path, fine_grained: str | Path, pandalm: str | Path) -> PreferenceData:
    """Read the three files and split them; the same files give the same rows."""
    groups = {
        "harmless": _by_prompt(_short("harmless", _harmless(hh))),
        "qa": _by_prompt(_short("qa", (_with_passages_cut(one) for one in load_comparisons(fine_grained)))),
        "instructions": _by_prompt(_short("instructions", load_comparisons(pandalm))),
    }
    queues = {name: iter(sorted(prompts, key=lambda group: _draw(group[0]))) for name, prompts in groups.items()}
    cases = [_case(name, group) for name, queue in queues.items() for group in islice(_decided(queue), CASES_A_SLICE)]
    splits: dict[str, list[Comparison]] = {}
    for split, sizes in SPLITS.items():
        rows = [replace(one, source=name) for name, size in sizes.items() for one in _take(queues[name], size, PAIRS_A_PROMPT[name])]
        splits[split] = sorted(rows, key=lambda one: _draw(one, salt="order"))
    pairs = {"calibration": _majority(splits["calibration"])}
    pairs |= {f"test-{name}": _majority([one for one in splits["test"] if one.source == name]) for name in groups}
    training = {split: rows for split, rows in splits.items() if split not in ("calibration", "test")}
    files: dict[str, Sequence[Comparison | PreferencePair]] = {**training, **pairs}
    counts = Counter(f"{split} {one.source}" for split, rows in files.items() for one in rows)
    return PreferenceData(training, pairs, cases, {**counts, "suite cases": len(cases)})


def _majority(comparisons: Sequence[Comparison]) -> list[PreferencePair]:
    """Pairs by the majority of votes; a tie is left out."""
    pairs = []
    for one in comparisons:
        votes = Counter(judgement.choice for judgement in one.judgements)
        if votes["a"] != votes["b"] and max(votes["a"], votes["b"]) > votes["tie"]:
            chosen, rejected = (one.a, one.b) if votes["a"] > votes["b"] else (one.b, one.a)
            pairs.append(PreferencePair(one.prompt, chosen, rejected, id=one.id, source=one.source, metadata=one.metadata))
    return pairs


def _harmless(path: str | Path) -> Iterator[Comparison]:
    """HH pairs as comparisons with one judgement, the chosen answer on a side drawn by its text. Unreadable rows are left out."""
    with TemporaryDirectory() as folder:  # nothing is written beside the original
        yield from map(_judged, count(), read_records(path, PreferencePair, on_bad_row="skip", rejects_path=Path(folder) / "rejects.jsonl"))


def _judged(index: int, pair: Record) -> Comparison:
    assert isinstance(pair, PreferencePair)
    judgement = Judgement("hh-rlhf", "a", HH_RUBRIC)
    kept = Comparison(pair.prompt, pair.chosen, pair.rejected, (judgement,), id=f"hh-{index}", metadata={"imitation": False})
    if int(_draw(kept, salt="side")[:8], 16) % 2:
        kept = replace(kept, a=pair.rejected, b=pair.chosen, judgements=(replace(judgement, choice="b"),))
    return kept


def _with_passages_cut(one: Comparison) -> Comparison:
    """The sentences of the passages that share most words with the question, in their order, at most ``MAX_PASSAGES`` characters."""
    passages, _, question = one.prompt[-1].content.rpartition("\n\nQuestion: ")
    asked = _words(question)
    sentences = re.split(r"(?<=[.!?])\s+", passages.replace("\n", " "))
    ranked = sorted(range(len(sentences)), key=lambda i: (-len(asked & _words(sentences[i])), i))
    kept: list[int] = []
    for position in ranked:
        if sum(len(sentences[i]) + 1 for i in kept) + len(sentences[position]) <= MAX_PASSAGES:
            kept.append(position)
    text = " ".join(sentences[i] for i in sorted(kept))
    return replace(one, prompt=(Message("user", f"{text}\n\nQuestion: {question}"),), metadata={"question": question})


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 3}


def _short(name: str, comparisons: Iterator[Comparison] | Sequence[Comparison]) -> list[Comparison]:
    """Comparisons short enough whose answers differ and say something."""
    return [
        one
        for one in comparisons
        if sum(len(message.content) for message in (*one.prompt, *one.a, *one.b)) <= MAX_CHARACTERS[name]
        and one.a != one.b
        and all(side[-1].content.strip() for side in (one.a, one.b))
    ]


def _by_prompt(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    groups: dict[str, list[Comparison]] = {}
    for one in comparisons:
        groups.setdefault(_prompt_key(one), []).append(one)
    return list(groups.values())


def _prompt_key(one: Comparison) -> str:
    """The first user turn, so that two dialogues which begin alike stay together; passages count through their question."""
    first = next(message.content for message in one.prompt if message.role == "user")
    return str(one.metadata.get("question") or first).strip().lower()


def _decided(groups: Iterator[list[Comparison]]) -> Iterator[Comparison]:
    """For each prompt its first comparison on which all annotators agree and which is no tie."""
    for group in groups:
        for one in sorted(group, key=_draw):
            if {judgement.choice for judgement in one.judgements} in ({"a"}, {"b"}):
                yield one
                break


def _take(groups: Iterator[list[Comparison]], size: int, a_prompt: int) -> Iterator[Comparison]:
    """``size`` comparisons, at most ``a_prompt`` of one prompt; whole prompts are used up."""
    taken = 0
    while taken < size:
        group = sorted(next(groups), key=_draw)[: min(a_prompt, size - taken)]
        taken += len(group)
        yield from group


def _case(name: str, one: Comparison) -> dict[str, Any]:
    chosen, rejected = (one.a, one.b) if one.judgements[0].choice == "a" else (one.b, one.a)
    return {
        "id": f"{name}-{_draw(one)[:10]}",
        "messages": [{"role": message.role, "content": message.content} for message in one.prompt],
        "expected": {"chosen": chosen[-1].content, "rejected": rejected[-1].content},
        "slices": [name],
    }


def _draw(one: Comparison, salt: str = "") -> str:
    """A number that depends on the text alone, to order by."""
    text = "\x00".join((salt, *(message.content for message in (*one.prompt, *one.a, *one.b))))
    return hashlib.sha256(text.encode()).hexdigest()


def main(arguments: Sequence[str]) -> None:
    """Rewrite the shipped files from the three originals."""
    data = build_preferences(*arguments)
    files: dict[str, Sequence[Record]] = {**data.training, **data.pairs}
    for split, rows in files.items():
        write_gzip(FOLDER / f"preference-{split}.jsonl.gz", lines([record_to_row(one) for one in rows]))
    write_text(SUITE, lines(data.cases))
    for name, number in data.counts.items():
        print(f"{number:6}  {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
