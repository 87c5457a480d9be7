"""Incremental text equals the text of all tokens; stop strings are found wherever token boundaries fall."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.generation.text import TextStream
from posttrain.models.tiny import train_tokenizer

SAMPLE = ["the ledger shows café and 東京 🙂 in Ünïcode", "</answer> END. Stop here"]
TOKENIZER = train_tokenizer(SAMPLE, vocab_size=300)


def decode(ids):
    return TOKENIZER.decode(list(ids), clean_up_tokenization_spaces=False)


def bytes_of(text):
    """Token ids of the single bytes, so characters of several bytes arrive in pieces."""
    ids = []
    for piece in text:
        ids += TOKENIZER(piece).input_ids
    return ids


def stream_all(ids, stop=()):
    pieces = []
    stream = TextStream(decode, stop, pieces.append)
    for used, token in enumerate(ids, start=1):
        if stream.push(token):
            return stream.finish(), pieces, used
    return stream.finish(), pieces, len(ids)


@given(st.text(min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_pieces_joined_are_the_decoded_whole(text):
    ids = bytes_of(text)
    whole, pieces, _ = stream_all(ids)
    assert whole == "".join(pieces) == decode(ids) == text


@given(st.lists(st.integers(3, len(TOKENIZER) - 1), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_tokens_even_broken_characters_give_the_decoded_whole(ids):
    whole, pieces, _ = stream_all(ids)
    assert whole == "".join(pieces) == decode(ids)


@given(st.text("abAB</>", min_size=1, max_size=30), st.lists(st.text("abAB</>", min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_the_text_is_cut_before_the_earliest_stop_string_at_the_first_token_that_completes_one(text, stops):
    ids = TOKENIZER(text).input_ids
    whole, pieces, used = stream_all(ids, stops)
    needed = next((n for n in range(1, len(ids) + 1) if any(s in decode(ids[:n]) for s in stops)), None)
    if needed is None:
        assert whole == text
    else:
        assert used == needed
        so_far = decode(ids[:needed])
        assert whole == so_far[: min(so_far.find(s) for s in stops if s in so_far)]
    assert "".join(pieces) == whole


def test_a_possible_beginning_of_a_stop_string_is_held_back():
    pieces = []
    stream = TextStream(decode, ["END"], pieces.append)
    for token in bytes_of("a E"):
        stream.push(token)
    assert "".join(pieces) == "a "
    for token in bytes_of("x"):
        stream.push(token)
    assert "".join(pieces) == "a Ex"


def test_the_first_space_of_a_later_token_is_kept_where_the_decoder_strips_the_first():
    """SentencePiece decoders drop the space before the first word; decoding the tail alone would drop spaces between words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"▁pay": 0, "▁the": 1, "▁bill": 2}, unk_token="▁pay"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    stream = TextStream(lambda ids: backend.decode(list(ids)))
    for token in (0, 1, 2):
        stream.push(token)
    assert stream.finish() == "pay the bill"


@pytest.mark.parametrize("stop", [(), ("zzz",)])
def test_an_incomplete_character_at_the_end_becomes_the_replacement_character(stop):
    ids = bytes_of("ok 🙂")[:-1]
    assert stream_all(ids, stop)[0] == decode(ids)
