import json
from dataclasses import replace

import pytest
from judge_server import constitution, judged_by_people

from posttrain.errors import CheckFailed, DataError
from posttrain.judges import calibrate, check_floor, human_choice
from posttrain.records import Judgement


def test_a_judge_right_nine_times_in_ten_has_kappa_point_eight(make_judge, server):
    server.accuracy = 0.9
    found, _ = calibrate(make_judge(), judged_by_people(100))
    assert found.accuracy.low <= 0.9 <= found.accuracy.high
    assert found.kappa.low <= 0.8 <= found.kappa.high  # two balanced choices: kappa = 2 x accuracy - 1
    assert (found.labelled, found.unread, found.coverage.value) == (100, 0, 1.0)
    assert found.first_chosen.value == 0.5  # the same belief in both orders
    assert found.inconsistent.value == 0.0
    check_floor(found, constitution().floor)


def test_position_bias_shows_in_its_figures_and_not_in_the_labels(make_judge, server):
    server.place = 0.3
    found, verdicts = calibrate(make_judge(), judged_by_people(100))
    assert found.first_chosen.low <= 0.5 + 0.3 / 2 <= found.first_chosen.high
    assert found.first_chosen.low > 0.5
    assert found.inconsistent.low <= 0.3 <= found.inconsistent.high
    assert found.coverage.value == pytest.approx(1 - found.inconsistent.value)
    assert found.accuracy.value == 1.0  # what is left after both orders is right
    assert all(one.choice is None for one in verdicts if one.status == "inconsistent")


def test_length_bias_is_seen_where_judge_and_people_differ(make_judge, server):
    server.length = 0.4
    found, _ = calibrate(make_judge(), judged_by_people(100))
    assert found.longer_against_people.value == 1.0  # all its errors are longer answers
    assert found.longer_chosen.value > found.human_longer_chosen.value
    assert found.human_longer_chosen.low <= 0.5 <= found.human_longer_chosen.high
    server.length, server.accuracy = 0.0, 0.7
    fair, _ = calibrate(make_judge(), judged_by_people(100))
    assert fair.longer_against_people.low <= 0.5 <= fair.longer_against_people.high


def test_below_the_floor_every_figure_is_named(make_judge, server):
    server.accuracy = 0.6  # kappa .2
    found, _ = calibrate(make_judge(), judged_by_people(100))
    with pytest.raises(CheckFailed) as error:
        check_floor(found, constitution(floor={"accuracy": 0.9}).floor)
    assert "kappa is 0." in str(error.value)
    assert "the lower end must reach 0.4" in str(error.value)
    assert "accuracy is 0." in str(error.value)
    assert "coverage" not in str(error.value)
    assert error.value.exit_code == 1


def test_the_lower_end_decides_unless_the_figure_itself_is_asked_for(make_judge, server):
    server.accuracy = 0.8  # kappa .6: with 60 pairs the lower end lies below .4
    found, _ = calibrate(make_judge(), judged_by_people(60))
    assert found.kappa.low < 0.4 < found.kappa.value
    with pytest.raises(CheckFailed, match="lower end"):
        check_floor(found, constitution().floor)
    check_floor(found, constitution(floor={"bound": "value"}).floor)


def test_too_few_human_labels_or_too_little_coverage_are_below_the_floor(make_judge, server):
    found, _ = calibrate(make_judge(), judged_by_people(20))
    with pytest.raises(CheckFailed, match="20 human-labelled comparisons, 50 are needed"):
        check_floor(found, constitution().floor)
    server.mumble = 0.9
    found, _ = calibrate(make_judge(), judged_by_people(60))
    assert found.unread > 40
    with pytest.raises(CheckFailed, match="coverage is"):
        check_floor(found, constitution().floor)
    server.mumble = 1.0
    found, _ = calibrate(make_judge(), judged_by_people(60))
    with pytest.raises(CheckFailed, match="kappa cannot be computed"):
        check_floor(found, constitution().floor)


def test_the_human_choice_is_gold_or_what_most_people_chose_and_no_judge_is_a_person():
    (one,) = judged_by_people(1)

    def of(*choices, gold=None):
        said = tuple(Judgement(f"p{number}", choice, "people-1") for number, choice in enumerate(choices))
        return replace(one, judgements=(*said, Judgement("judge:x:1", "b", "people-1")), gold=gold)

    assert human_choice(of("a", "a", "b")) == "a"
    assert human_choice(of("a", "b")) == "tie"
    assert human_choice(of("tie", "tie", "b")) == "tie"
    assert human_choice(of("a", "a", gold="b")) == "b"
    again = replace(one, judgements=tuple(Judgement("p0", choice, "people-1") for choice in ("a", "a", "b")))
    assert human_choice(again) == "b"  # who judged again has one vote


def test_without_people_or_with_two_of_their_rubrics_nothing_is_compared(make_judge):
    judged = judged_by_people(2)
    only_judge = [replace(one, judgements=(Judgement("judge:x:1", "a", "r"),)) for one in judged]
    with pytest.raises(DataError, match="no comparison has a human judgement"):
        calibrate(make_judge(), only_judge)
    mixed = [judged[0], replace(judged[1], judgements=(Judgement("bob", "a", "people-2"),))]
    with pytest.raises(DataError, match="2 rubrics: assistant-1, people-2"):
        calibrate(make_judge(), mixed)


def test_a_perfect_judge_held_against_one_prompt_is_below_the_floor(make_judge):
    same_prompt = [replace(one, prompt=judged_by_people(1)[0].prompt) for one in judged_by_people(100)]
    found, _ = calibrate(make_judge(), same_prompt)
    assert found.kappa.value == 1.0
    for bound in ("low", "value"):
        with pytest.raises(CheckFailed, match=r"kappa is 1.000 \[-inf, inf\]"):
            check_floor(found, constitution(floor={"bound": bound}).floor)
    assert (found.to_dict()["kappa"]["low"], found.to_dict()["kappa"]["value"]) == (None, 1.0)
    json.dumps(found.to_dict(), allow_nan=False)
