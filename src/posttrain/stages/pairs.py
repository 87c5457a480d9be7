"""Preference data as training items: a pair shares its prompt, a label stands alone. What cannot train fairly is refused or counted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
import torch

from posttrain.chat import ChatContract
from posttrain.data import read_records, rejects_file
from posttrain.data.preference_sets import dialogue_key
from posttrain.errors import ContractError, DataError
from posttrain.records import PreferencePair, TokenSequence, UnpairedLabel
from posttrain.training import TrainingItem

Rule = Literal["stop", "skip", "drop"]


@dataclass(frozen=True, slots=True)
class PreferenceRules:
    """What to do with rows that do not fit. ``limit``: longest sequence in tokens. ``imitates``: the objective has a likelihood term.

    ``rejects``: folder for the rows set aside, None for beside their file.
    """

    limit: int | None
    on_bad_row: Literal["stop", "skip"] = "stop"
    on_too_long: Literal["stop", "drop"] = "stop"
    imitates: bool = False
    rejects: str | None = None


@dataclass(slots=True)
class PreferenceData:
    """Items in file order with the records they came from. ``counts``: rows kept and left out, by reason."""

    items: list[TrainingItem] = field(default_factory=list)
    records: list[PreferencePair | UnpairedLabel] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)

    @property
    def sequences(self) -> list[TokenSequence]:
        """The sequences of all items, in order."""
        return [sequence for item in self.items for sequence in item.sequences]


def load_pairs(path: str, contract: ChatContract, rules: PreferenceRules) -> PreferenceData:
    """Pairs as items of two sequences (chosen, rejected), with ``probabilities``, ``margins`` and both lengths by name, [1] each.

    A pair whose label says that the rejected side is likelier better (probability below one half) is turned round, and counted.
    Refused or left out and counted: a pair whose sides are the same tokens, a prompt that does not encode to a prefix, a pair with either
    side over the limit (the whole pair: no side is ever cut), and, for an objective that imitates, sources that must not be imitated.
    Raises DataError naming the rows, also when the file holds labels and not pairs.
    """
    _check_kind(path, PreferencePair, UnpairedLabel, _LABELS_FOR_PAIRS)
    return _load(path, PreferencePair, _pair_item, contract, rules)


def load_labels(path: str, contract: ChatContract, rules: PreferenceRules) -> PreferenceData:
    """Good and bad answers as items of one sequence, with ``labels`` (bool) and ``positions`` (its number among the items), [1] each.

    Raises DataError as :func:`load_pairs` does, when the file holds pairs (splitting them is for the caller to ask), and when all labels
    are the same: nothing would be told apart.
    """
    _check_kind(path, UnpairedLabel, PreferencePair, _PAIRS_FOR_LABELS)
    data = _load(path, UnpairedLabel, _label_item, contract, rules)
    if len(found := {bool(item.tensors["labels"]) for item in data.items}) == 1:
        kind, other = ("good", "bad") if found.pop() else ("bad", "good")
        raise DataError(
            f"{path}: all {len(data.items)} answers are labelled {kind}: there is nothing to tell apart", hint=f"add {other} ones"
        )
    return data


def split_pairs(pairs: PreferenceData) -> PreferenceData:
    """Each pair as two labelled answers: the better side good, the worse bad; undecided pairs (probability one half) are left out.

    Single labels are certain: ``pairs_hardened`` counts the pairs whose label was not.
    """
    split = PreferenceData(counts=dict(pairs.counts))
    undecided = hardened = 0
    for item, record in zip(pairs.items, pairs.records, strict=True):
        probability = float(item.tensors["probabilities"])
        if probability == 0.5:
            undecided += 1
            continue
        hardened += probability < 1
        for sequence, good in zip(item.sequences, (True, False), strict=True):
            split.items.append(_labelled(sequence, good, len(split.items)))
            split.records.append(record)
    if not split.items:
        raise DataError("every pair is undecided (probability 0.5): there is no good and no bad answer", hint="look at the labels")
    split.counts |= {"pairs_undecided": float(undecided), "pairs_hardened": float(hardened)}
    return split


def mismatched(sequences: Sequence[TokenSequence], *, limit: int | None) -> list[TokenSequence | None]:
    """For each sequence its prompt with the completion of another sequence that answers another prompt; every completion is used once.

    Prompts are shuffled, their answers kept together, and completions handed on by the size of the largest group, so nobody gets an answer
    to its own prompt. A function of the data alone. None where that cannot be (one prompt holds more than half of the answers) or the
    result is over ``limit``.
    """
    prompts = [_prompt_of(sequence) for sequence in sequences]
    groups: dict[bytes, list[int]] = {}
    for position, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(position)
    shuffled = np.random.default_rng(len(sequences)).permutation(len(groups))
    members = list(groups.values())
    order = [position for number in shuffled for position in members[number]]
    step = max(map(len, members))
    found: list[TokenSequence | None] = [None] * len(sequences)
    for rank, position in enumerate(order):
        other = order[(rank + step) % len(order)]
        row = _joined(sequences[position], sequences[other])
        if prompts[other] != prompts[position] and (limit is None or len(row) <= limit):
            found[position] = row
    return found


def _joined(prompt: TokenSequence, completion: TokenSequence) -> TokenSequence:
    """The prompt of one sequence and the completion of another, as ids: both end and begin at the generation prompt."""
    end, start = _first_supervised(prompt), _first_supervised(completion)
    ids = np.concatenate((prompt.input_ids[:end], completion.input_ids[start:]))
    mask = np.concatenate((np.zeros(end, dtype=np.bool_), completion.completion_mask[start:]))
    return TokenSequence(ids, mask, prompt.index)


def _first_supervised(sequence: TokenSequence) -> int:
    return int(sequence.completion_mask.argmax())


def check_apart(training: PreferenceData, held_out: PreferenceData, path: str) -> None:
    """Raise DataError when a held-out dialogue is also trained on, at whatever turn: accuracy on it would not show overfitting."""
    seen = {dialogue_key(record): item.rows[0] for item, record in zip(training.items, training.records, strict=True)}
    keys = [(item.rows[0], dialogue_key(record)) for item, record in zip(held_out.items, held_out.records, strict=True)]
    both = [(row, seen[key]) for row, key in keys if key in seen]
    if both:
        shown = ", ".join(f"{held} (row {trained} of the data)" for held, trained in both[:10]) + (", ..." if len(both) > 10 else "")
        raise DataError(
            f"{path}: {len(both)} of {len(keys)} held-out rows are of dialogues that are also trained on: rows {shown}",
            hint="take them out of one of the two files; a dialogue is known by its first user turn",
        )


def _prompt_of(sequence: TokenSequence) -> bytes:
    return sequence.input_ids[: _first_supervised(sequence)].tobytes()


def _check_kind(path: str, wanted: type[Any], other: type[Any], message: tuple[str, str]) -> None:
    if not _begins_as(path, wanted) and _begins_as(path, other):
        raise DataError(f"{path}: {message[0]}", hint=message[1])


def _begins_as(path: str, kind: type[Any]) -> bool:
    try:
        next(read_records(path, kind))
    except DataError:
        return False
    return True


Encode = Callable[[Any, ChatContract, int, int], TrainingItem]


def _load(path: str, kind: type[Any], encode: Encode, contract: ChatContract, rules: PreferenceRules) -> PreferenceData:
    reader = read_records(path, kind, on_bad_row=rules.on_bad_row, rejects_path=rejects_file(path, rules.rejects))
    data = PreferenceData()
    bad: list[tuple[int, str]] = []
    too_long: list[tuple[int, TrainingItem]] = []
    not_to_imitate = 0
    turned = 0
    for record in cast(Iterator[Any], reader):
        index = reader.position
        if isinstance(record, PreferencePair) and record.probability < 0.5:
            record = likelier_first(record)
            turned += 1
        if rules.imitates and record.metadata.get("imitation") is False:
            not_to_imitate += 1
            continue
        try:
            item = encode(record, contract, index, len(data.items))
        except (ContractError, DataError) as error:
            bad.append((index, error.message))
            if rules.on_bad_row == "stop":
                raise DataError(
                    f"{path}: {error.message}", hint=f"{error.hint or 'mend the row'}; or set it aside: on_bad_row: skip"
                ) from None
            reader.set_aside(error)
            continue
        if rules.limit is not None and max(map(len, item.sequences)) > rules.limit:
            too_long.append((index, item))
            continue
        data.items.append(item)
        data.records.append(record)
    rows = reader.report.rows
    if too_long and rules.on_too_long == "stop":
        raise DataError(
            _describe_too_long(path, too_long, rows, rules.limit), hint="leave them out with on_too_long: drop; no side is ever cut"
        )
    data.counts = {
        "rows": float(len(data.items)),
        "rows_skipped": float(reader.report.skipped),
        "rows_not_encodable": float(len(bad)),
        "rows_too_long": float(len(too_long)),
        "rows_not_to_imitate": float(not_to_imitate),
        "pairs_turned": float(turned),
        "tokens": float(sum(item.num_tokens for item in data.items)),
        "supervised_tokens": float(sum(row.num_supervised for row in data.sequences)),
    }
    if not data.items:
        why = f"{len(bad)} bad, {len(too_long)} too long, {not_to_imitate} from sources not to be imitated"
        hint = (
            "an objective without a likelihood term (dpo, ipo, simpo, kto) may use sources that must not be imitated"
            if not_to_imitate
            else ""
        )
        raise DataError(f"{path}: none of {rows} rows is left to train on ({why})", hint=hint or "see `posttrain check`")
    return data


def likelier_first(pair: PreferencePair) -> PreferencePair:
    """The same label with the likelier side as chosen: what is watched (margin, accuracy, likelihoods) then means what it says."""
    if pair.probability >= 0.5:
        return pair
    margin = None if pair.margin is None else -pair.margin
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen, probability=1 - pair.probability, margin=margin)


def _pair_item(pair: PreferencePair, contract: ChatContract, index: int, position: int) -> TrainingItem:
    chosen, rejected = (
        contract.encode_completion(pair.prompt, side, tools=pair.tools, index=index) for side in (pair.chosen, pair.rejected)
    )
    if np.array_equal(chosen.input_ids, rejected.input_ids):
        raise DataError(
            f"row {index}: chosen and rejected are the same {len(chosen)} tokens", hint="a pair without a difference teaches nothing"
        )
    lengths = [torch.tensor([row.num_supervised]) for row in (chosen, rejected)]
    tensors = {
        "probabilities": torch.tensor([pair.probability]),
        "margins": torch.tensor([pair.margin or 0.0]),
        "chosen_lengths": lengths[0],
        "rejected_lengths": lengths[1],
    }
    return TrainingItem((chosen, rejected), tensors)


def _label_item(label: UnpairedLabel, contract: ChatContract, index: int, position: int) -> TrainingItem:
    sequence = contract.encode_completion(label.prompt, label.completion, tools=label.tools, index=index)
    return _labelled(sequence, label.label, position)


def _labelled(sequence: TokenSequence, good: bool, position: int) -> TrainingItem:
    return TrainingItem((sequence,), {"labels": torch.tensor([good]), "positions": torch.tensor([position])})


def _describe_too_long(path: str, rows: Sequence[tuple[int, TrainingItem]], total: int, limit: int | None) -> str:
    shown = ", ".join(f"{index} ({' and '.join(str(len(row)) for row in item.sequences)} tokens)" for index, item in rows[:10])
    return f"{path}: {len(rows)} of {total} rows longer than {limit} tokens: {shown}" + (", ..." if len(rows) > 10 else "")


_LABELS_FOR_PAIRS = (
    "holds single labelled answers, and pairs are needed here",
    "give a file with 'chosen' and 'rejected'; an objective on single labels (kto) takes this one as it is, without unpair",
)
_PAIRS_FOR_LABELS = (
    "holds pairs, and this objective learns from single labelled answers",
    "unpair: true makes a good and a bad answer of each pair; or give a file with 'completion' and 'label'",
)
