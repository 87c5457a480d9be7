from collections import Counter

import numpy as np
import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.feedback.collection import candidate_requests, collect_pairs
from posttrain.generation import LocalGenerator, answer_prompts
from posttrain.models.tiny import write_tiny_model
from posttrain.records import GenerationRequest, Message, SamplingSettings, check_record


def requests(*prompts, candidates=3, temperature=0.9):
    sampling = SamplingSettings(max_new_tokens=8, temperature=temperature)
    asked = [GenerationRequest((Message("user", prompt),), sampling=sampling, id=f"p{n}") for n, prompt in enumerate(prompts)]
    return candidate_requests(asked, candidates, seed=7)


def answers(*texts):
    return [{"text": text, "finish_reason": "stop"} for text in texts]


ONE = "the treasury balance fell by four percent because two large invoices were paid early in the month of March as agreed"
NEAR = "the treasury balance fell by four percent because two large invoices were paid early in the month of March as agreed."
OTHER = "nothing can be said about it without the ledger of the second quarter, which you have not given; please add it"
THIRD = "the treasury balance rose because sales were better than planned and no invoice was due"


def test_every_candidate_has_an_id_and_a_seed_of_its_own():
    made = requests("x", "y")
    assert [one.id for one in made] == ["p0#0", "p0#1", "p0#2", "p1#0", "p1#1", "p1#2"]
    assert len({one.sampling.seed for one in made}) == 6
    with pytest.raises(ConfigError, match="temperature 0"):
        requests("x", temperature=0.0)
    with pytest.raises(ConfigError, match="num_candidates is 1"):
        requests("x", candidates=1)


def test_duplicates_and_empty_answers_are_left_out_and_counted():
    made = requests("x", "y", candidates=4)
    found = collect_pairs(made, answers(ONE, ONE, NEAR, OTHER, OTHER, OTHER, "", "  "), strategy="diverse")
    assert found.to_dict() == {
        **{"comparisons": 1, "prompts": 2, "candidates": 8, "empty": 2},
        **{"exact_duplicates": 2, "near_duplicates": 1, "unpaired": 1, "strategy": "diverse"},
    }
    (one,) = found.comparisons
    assert (one.a[0].content, one.b[0].content, one.id) == (ONE, OTHER, "p0#0-3")
    check_record(one)
    with pytest.raises(DataError, match="no prompt of 1 has two different answers"):
        collect_pairs(requests("x"), answers(ONE, ONE, ONE), strategy="diverse")


def test_diverse_takes_the_answers_that_share_the_least_words():
    (one,) = collect_pairs(requests("x"), answers(ONE, THIRD, OTHER), strategy="diverse").comparisons
    shared = {
        pair: len(set(pair[0].split()) & set(pair[1].split())) / len(set(pair[0].split()) | set(pair[1].split()))
        for pair in ((ONE, THIRD), (ONE, OTHER), (THIRD, OTHER))
    }
    assert (one.a[0].content, one.b[0].content) == min(shared, key=shared.get)


def test_a_second_pair_prefers_answers_not_shown_yet():
    texts = [f"{letter} answer of its own kind {letter * 3}" for letter in "abcd"]
    found = collect_pairs(requests("x", candidates=4), answers(*texts), strategy="random", pairs_per_prompt=2).comparisons
    shown = Counter(side[0].content for one in found for side in (one.a, one.b))
    assert shown == Counter(texts)


def test_difference_is_taken_at_equal_length():
    """Scores are length alone, but for one short answer that is good: the longest and the shortest do not differ at equal length."""
    texts = [" ".join([f"w{n}{k}" for k in range(length)]) for n, length in enumerate((4, 8, 16, 32, 8))]
    made = requests(*"abcdefgh", candidates=5)
    rows = [text.replace("w", f"{prompt}") for prompt in "abcdefgh" for text in texts]

    def scorer(pairs):
        return [np.log(len(c[0].content.split()) + 1) * 3.0 + (2.0 if c[0].content.split()[0][1:] == "40" else 0.0) for _, c in pairs]

    found = collect_pairs(made, answers(*rows), strategy="difference", scorer=scorer).comparisons
    assert len(found) == 8
    assert all(4 in (one.metadata["candidate_a"], one.metadata["candidate_b"]) for one in found)
    by_length_alone = 3 * np.log(33 / 5)  # what the longest would lead the shortest by
    assert all(abs(one.metadata["score_a"] - one.metadata["score_b"]) < by_length_alone for one in found)


def test_uncertain_takes_the_closest_scores_and_both_need_a_scorer():
    values = {ONE: 0.0, OTHER: 5.0, THIRD: 4.5}
    (one,) = collect_pairs(
        requests("x"), answers(ONE, OTHER, THIRD), strategy="uncertain", scorer=lambda pairs: [values[c[0].content] for _, c in pairs]
    ).comparisons
    assert {one.a[0].content, one.b[0].content} == {OTHER, THIRD}
    for strategy, said in (("difference", "needs scores"), ("best", "unknown strategy")):
        with pytest.raises(ConfigError, match=said):
            collect_pairs(requests("x"), answers(ONE, OTHER, THIRD), strategy=strategy)


def test_a_real_model_is_sampled_and_its_answers_compared(tmp_path):
    folder = write_tiny_model(tmp_path / "model", [ONE, OTHER, THIRD] * 5, seed=1, vocab_size=300, hidden=32, max_length=128)
    made = requests("what happened?", "why?", candidates=3, temperature=1.0)
    rows = answer_prompts(LocalGenerator.load(folder, dtype="float32"), made, tmp_path / "answers.jsonl")
    found = collect_pairs(made, rows, strategy="diverse", model="tiny")
    assert len(found.comparisons) == 2
    for one in found.comparisons:
        check_record(one)
        assert one.a != one.b
        assert one.metadata["generator"] == "tiny"
