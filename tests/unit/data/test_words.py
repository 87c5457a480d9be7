import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.minhash import band_keys, band_rows, pairs_between, pairs_within, unique_pairs, verified
from posttrain.data.words import Vocabulary, grams, passage, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Revenue was $1,496.5 million.", ["revenue", "was", "1496", "5", "million"]),
        ("it's  a_b\tfoo.Bar", ["its", "a", "b", "foo", "bar"]),
        ("Ｒevenue – “café’s”", ["revenue", "cafés"]),
        ("東京 tokyo 2019年", ["東", "京", "tokyo", "2019", "年"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@settings(deadline=None)
@given(st.text(alphabet="ab ,.'’é–1", max_size=40), st.text(alphabet="ab ,.é", max_size=20))
def test_words_do_not_cross_blanks(left, right):
    assert words(left + " " + right) == words(left) + words(right)


def test_a_passage_is_the_original_text_of_its_words():
    text = "One, two-three\n\n(four) 5.6 — seven"
    assert words(text) == ["one", "two", "three", "four", "5", "6", "seven"]
    assert passage(text, 3, 6) == "(four) 5.6"
    assert passage(text, 1, 2) == "two-three"


def slow_grams(texts, size):
    return [
        (n, i, tuple(text[i : i + size]))
        for n, text in enumerate(texts)
        for i in range(len(text) - size + 1)
        if 0 not in text[i : i + size]
    ]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=6), st.integers(1, 5))
def test_grams_are_the_runs_of_known_words_inside_each_text(texts, size):
    found = grams([np.array(text, dtype=np.int64) for text in texts], size)
    slow = slow_grams(texts, size)
    assert list(zip(found.owner.tolist(), found.position.tolist(), strict=True)) == [(n, i) for n, i, _ in slow]
    by_hash = dict(zip(found.hashes.tolist(), (run for _, _, run in slow), strict=True))
    assert all(by_hash[h] == run for h, (_, _, run) in zip(found.hashes.tolist(), slow, strict=True))
    assert len(by_hash) == len({run for _, _, run in slow})


def test_the_vocabulary_looks_up_without_learning():
    vocabulary = Vocabulary()
    assert vocabulary.add(["a", "b", "a"]).tolist() == [1, 2, 1]
    assert vocabulary.look_up(["b", "c", "a"]).tolist() == [2, 0, 1]
    assert vocabulary.add(["c"]).tolist() == [3]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85])
def test_banding_finds_pairs_at_the_threshold_and_verification_keeps_no_other(threshold):
    rng = np.random.default_rng(0)
    rows = band_rows(threshold)
    assert 1 - (1 - threshold**rows) ** (128 // rows) >= 0.98
    size, left, right = 400, [], []
    shared = round(2 * size * threshold / (1 + threshold))  # |A and B| for which the Jaccard similarity is the threshold
    for _ in range(100):
        common, one, other = np.split(rng.integers(0, 2**63, 2 * size - shared).astype(np.uint64), [shared, size])
        left.append(np.unique(np.concatenate([common, one])))
        right.append(np.unique(np.concatenate([common, other])))
    found = list(verified(pairs_between(band_keys(left, threshold), band_keys(right, threshold)), left, right, threshold - 0.002))
    assert all(a == b for a, b, _ in found)
    assert len(found) >= 90
    assert all(abs(similarity - threshold) < 0.01 for _, _, similarity in found)
    assert not list(verified(np.array([[0, 1]]), left, right, threshold))


def test_pairs_within_links_every_member_of_a_bucket():
    keys = np.array([[1, 9], [2, 8], [1, 7], [1, 8]], dtype=np.uint64)
    assert pairs_within(keys).tolist() == [[0, 2], [0, 3], [1, 3], [2, 3]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50))))
def test_unique_pairs(pairs):
    left, right = (np.array(side, dtype=np.int64) for side in (zip(*pairs, strict=True) if pairs else ([], [])))
    assert list(zip(*(side.tolist() for side in unique_pairs(left, right)), strict=True)) == sorted(set(pairs))
