"""Published preference sets that come as pairs; sets with judgements of several people are read by ``comparisons``."""

import hashlib
from collections.abc import Sequence

from posttrain.data.conversations import Row, text
from posttrain.data.shapes import row_about, shape
from posttrain.records import FieldError, Message, PreferencePair, Record, UnpairedLabel


@shape("llmbar", PreferencePair, "input output_1 output_2 label")
def _llmbar(row: Row) -> Record:
    """LLMBar (Zeng et al. 2023, arXiv:2310.07641): the better output is ``label`` 1 or 2; ``metadata["chosen_was"]`` keeps which it was."""
    if row["label"] not in (1, 2, "1", "2"):
        raise FieldError("label", "is neither 1 nor 2", row["label"], fix="is this the original file?")
    outputs = [(Message("assistant", text(row[name], name)),) for name in ("output_1", "output_2")]
    better = int(row["label"]) - 1
    about = row_about(row, "input", "output_1", "output_2", "label")
    about["metadata"] = {**about["metadata"], "chosen_was": ("first", "second")[better]}
    return PreferencePair(
        prompt=(Message("user", text(row["input"], "input")),), chosen=outputs[better], rejected=outputs[1 - better], **about
    )


def prompt_key(pair: PreferencePair | UnpairedLabel) -> str:
    """The same for pairs of one prompt, whatever their answers: what an interval groups by."""
    return hashlib.sha256(repr((pair.prompt, pair.tools)).encode()).hexdigest()


def dialogue_key(pair: PreferencePair | UnpairedLabel) -> str:
    """The same for answers in one dialogue, however far it went: its first user turn, case and white space aside.

    What a split keeps apart: the longer prompt of a dialogue holds the shorter one and an answer to it.
    """
    return first_turn_key(pair.prompt) or prompt_key(pair)


def first_turn_key(messages: Sequence[Message]) -> str:
    """The hash of the first user turn, case and white space aside; "" where there is none."""
    first = next((message.content for message in messages if message.role == "user"), None)
    return "" if first is None else hashlib.sha256(" ".join(first.split()).casefold().encode()).hexdigest()
