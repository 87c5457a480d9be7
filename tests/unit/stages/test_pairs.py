"""Preference rows as training items: what is kept, what is refused or left out and counted, and KTO's foreign prompts."""

import json
from pathlib import Path

import numpy as np
import pytest
from preference_data import LABELS, PAIRS, TEXTS, configure, write_rows

from posttrain.chat import ChatContract
from posttrain.config import parse
from posttrain.errors import ConfigError, DataError
from posttrain.models import write_tiny_model
from posttrain.records import TokenSequence
from posttrain.stages import STAGES, PreferenceConfig, run_preference
from posttrain.stages.pairs import PreferenceRules, check_apart, load_labels, load_pairs, mismatched, split_pairs
from posttrain.stages.preference import load_preferences

RULES = PreferenceRules(limit=400)


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    return ChatContract.load(write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", TEXTS, seed=1, vocab_size=320, hidden=32))


def test_a_pair_is_one_item_whose_sides_begin_with_the_same_prompt_and_supervise_their_answers(tmp_path, contract):
    rows = [{**PAIRS[0], "probability": 0.8, "margin": 2}, PAIRS[1]]
    data = load_pairs(write_rows(tmp_path, rows), contract, RULES)
    chosen, rejected = data.items[0].sequences
    start = int(chosen.completion_mask.argmax())
    assert np.array_equal(chosen.input_ids[:start], rejected.input_ids[:start])
    assert not rejected.completion_mask[:start].any()
    assert contract.decode(chosen.input_ids[chosen.completion_mask]).strip() == PAIRS[0]["chosen"]
    tensors = data.items[0].tensors
    assert (float(tensors["probabilities"]), float(tensors["margins"])) == (pytest.approx(0.8), 2.0)
    assert int(tensors["rejected_lengths"]) == rejected.num_supervised
    assert float(data.items[1].tensors["probabilities"]) == 1.0
    assert data.counts["rows"] == 2
    assert data.counts["supervised_tokens"] == sum(row.num_supervised for row in data.sequences)


BAD = {
    "one-sided, column missing": ({"prompt": "a", "chosen": "b"}, "rejected"),
    "one-sided, null": ({"prompt": "a", "chosen": "b", "rejected": None}, "'rejected': is missing or null"),
    "chosen equals rejected": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "equals 'chosen'"),
    "the same tokens": ({"prompt": "a", "chosen": [{"role": "assistant", "content": "b", "name": "x"}], "rejected": "b"}, "are the same"),
    "no common prompt": ({"prompt": "", "chosen": "b", "rejected": "c"}, "prompt"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_pair_stops_with_its_place_or_is_set_aside_and_counted(tmp_path, contract, kind):
    row, message = BAD[kind]
    path = write_rows(tmp_path, [PAIRS[0], row, PAIRS[1]])
    with pytest.raises(DataError, match=message) as caught:
        load_pairs(path, contract, RULES)
    assert "rows.jsonl" in caught.value.message
    assert caught.value.hint
    data = load_pairs(path, contract, PreferenceRules(limit=400, on_bad_row="skip"))
    assert data.counts["rows"] == 2
    assert data.counts["rows_skipped"] + data.counts["rows_not_encodable"] == 1
    (aside,) = [json.loads(line) for line in Path(f"{path}.rejects.jsonl").read_text().splitlines()]
    assert (aside["position"], aside["row"]) == (2, row)
    load_pairs(path, contract, PreferenceRules(limit=400, on_bad_row="skip", rejects=str(tmp_path / "run")))
    assert (tmp_path / "run/rows.jsonl.rejects.jsonl").read_text() == Path(f"{path}.rejects.jsonl").read_text()


def test_a_one_sided_first_row_names_the_missing_side(tmp_path, contract):
    for row in ({"prompt": "a", "chosen": "b"}, {"prompt": "a", "chosen": "b", "rejected": None}):
        with pytest.raises(DataError, match="lacks only 'rejected'"):
            load_pairs(write_rows(tmp_path, [row]), contract, RULES)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_pair_with_one_side_over_the_limit_is_refused_or_left_out_whole(tmp_path, contract, side):
    path = write_rows(tmp_path, [PAIRS[0], {**PAIRS[1], side: "long " * 300}, PAIRS[2]])
    with pytest.raises(DataError, match=r"1 of 3 rows longer than 400 tokens: 2 \(\d+ and \d+ tokens\)") as caught:
        load_pairs(path, contract, RULES)
    assert "no side is ever cut" in caught.value.hint
    data = load_pairs(path, contract, PreferenceRules(limit=400, on_too_long="drop"))
    assert (data.counts["rows"], data.counts["rows_too_long"]) == (2, 1)
    assert [item.rows for item in data.items] == [(1,), (3,)]


def test_a_prompt_that_encodes_to_no_prefix_is_refused_by_name(tmp_path, contract):
    merging = ChatContract(contract.tokenizer, contract.template.replace("+ '\n' + message['content']", "+ '\n' + message['content']|trim"))
    path = write_rows(tmp_path, [{**PAIRS[0], "chosen": "  \n red"}, PAIRS[1]])
    loaded = load_pairs(path, contract, RULES)  # exact: the prefix is kept by encoding in two parts
    start = int(loaded.items[0].sequences[0].completion_mask.argmax())
    prompt = contract.encode(loaded.records[0].prompt, add_generation_prompt=True)
    assert np.array_equal(loaded.items[0].sequences[0].input_ids[:start], prompt)
    broken = ChatContract(merging.tokenizer, merging.template.replace("'<|im_start|>assistant\n'", "'<|im_start|>model\n'"))
    with pytest.raises(DataError, match=r"rows.jsonl: .*row 1:"):
        load_pairs(path, broken, RULES)


def test_labels_are_refused_where_pairs_are_compared_and_pairs_where_labels_are_weighed(tmp_path, contract):
    labels, pairs = write_rows(tmp_path, LABELS, "labels.jsonl"), write_rows(tmp_path, PAIRS, "pairs.jsonl")
    with pytest.raises(DataError, match="single labelled answers, and pairs are needed here") as caught:
        load_preferences(parse(PreferenceConfig, {"data": labels}, where="t"), contract, limit=400)
    assert "kto" in caught.value.hint
    with pytest.raises(DataError, match="holds pairs, and this objective learns from single labelled answers") as caught:
        load_preferences(parse(PreferenceConfig, {"data": pairs, "objective": "kto"}, where="t"), contract, limit=400)
    assert "unpair: true" in caught.value.hint


def test_sources_that_must_not_be_imitated_are_left_out_of_objectives_with_a_likelihood_term_only(tmp_path, contract):
    rows = [{**row, "metadata": {"imitation": False}} if number < 5 else row for number, row in enumerate(PAIRS)]
    kept = {
        name: load_preferences(configure(tmp_path, rows, objective=name), contract, limit=400).training.counts for name in ("dpo", "orpo")
    }
    assert (kept["dpo"]["rows"], kept["dpo"]["rows_not_to_imitate"]) == (20, 0)
    assert (kept["orpo"]["rows"], kept["orpo"]["rows_not_to_imitate"]) == (15, 5)
    every = configure(tmp_path, [{**row, "metadata": {"imitation": False}} for row in PAIRS], objective="orpo")
    with pytest.raises(DataError, match="20 from sources not to be imitated") as caught:
        load_preferences(every, contract, limit=400)
    assert "dpo" in caught.value.hint


def test_split_pairs_follow_the_soft_label_and_leave_undecided_ones_out(tmp_path, contract):
    rows = [{**PAIRS[0], "probability": 0.9}, {**PAIRS[1], "probability": 0.5}, {**PAIRS[2], "probability": 0.2}]
    split = split_pairs(load_pairs(write_rows(tmp_path, rows), contract, RULES))
    assert [bool(item.tensors["labels"]) for item in split.items] == [True, False, True, False]
    assert [record.chosen[0].content for record in split.records[::2]] == [PAIRS[0]["chosen"], PAIRS[2]["rejected"]]
    assert [int(item.tensors["positions"]) for item in split.items] == [0, 1, 2, 3]
    assert (split.counts["pairs_undecided"], split.counts["pairs_hardened"]) == (1, 2)


def test_a_pair_whose_rejected_side_is_likelier_is_turned_round(tmp_path, contract):
    rows = [{**PAIRS[0], "probability": 0.1}, {**PAIRS[1], "probability": 0.9}]
    turned = {**PAIRS[0], "chosen": PAIRS[0]["rejected"], "rejected": PAIRS[0]["chosen"], "probability": 0.9}
    data = load_pairs(write_rows(tmp_path, rows), contract, RULES)
    same = load_pairs(write_rows(tmp_path, [turned, rows[1]], "turned.jsonl"), contract, RULES)
    assert (data.counts["pairs_turned"], same.counts["pairs_turned"]) == (1, 0)
    for one, other in zip(data.sequences, same.sequences, strict=True):
        assert np.array_equal(one.input_ids, other.input_ids)
    assert float(data.items[0].tensors["probabilities"]) == pytest.approx(0.9)


def test_rows_are_named_by_their_place_in_the_file_however_many_were_set_aside(tmp_path, contract):
    path = write_rows(tmp_path, [{"prompt": "a", "chosen": "b", "rejected": None}, PAIRS[0], {**PAIRS[1], "chosen": "long " * 300}])
    with pytest.raises(DataError, match=r"longer than 400 tokens: 3 \("):
        load_pairs(path, contract, PreferenceRules(limit=400, on_bad_row="skip"))


def test_labels_of_one_kind_are_refused(tmp_path, contract):
    with pytest.raises(DataError, match="are labelled good: there is nothing to tell apart"):
        load_labels(write_rows(tmp_path, [{**row, "label": True} for row in LABELS]), contract, RULES)


def test_a_held_out_turn_of_a_dialogue_that_is_trained_on_is_refused(tmp_path, contract):
    begun = PAIRS[0]["prompt"]
    longer = {
        **PAIRS[0],
        "prompt": [{"role": "user", "content": begun}, {"role": "assistant", "content": "Red."}, {"role": "user", "content": "Sure?"}],
        "chosen": [{"role": "assistant", "content": "Yes."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    other = {**longer, "prompt": [{"role": "user", "content": "Else?"}]}
    training = load_pairs(write_rows(tmp_path, [longer, other], "data.jsonl"), contract, RULES)
    held_out = load_pairs(write_rows(tmp_path, [PAIRS[0]], "held.jsonl"), contract, RULES)
    with pytest.raises(DataError, match=r"1 of 1 held-out rows are of dialogues that are also trained on: rows 1 \(row 1 of the data\)"):
        check_apart(training, held_out, "held.jsonl")


def test_labels_carry_their_label_and_position(tmp_path, contract):
    data = load_labels(write_rows(tmp_path, LABELS), contract, RULES)
    assert [bool(item.tensors["labels"]) for item in data.items] == [row["label"] for row in LABELS]
    assert [int(item.tensors["positions"]) for item in data.items] == list(range(len(LABELS)))


def sequence(prompt, answer, index):
    ids = np.array([*prompt, *answer], np.int32)
    return TokenSequence(ids, np.arange(len(ids)) >= len(prompt), index)


@pytest.mark.parametrize("sizes", [(1,) * 7, (2,) * 5, (3, 1, 1, 1), (4, 2, 1, 1, 1), (1, 1)])
def test_every_answer_gets_a_foreign_prompt_and_every_completion_is_used_once(sizes):
    rows = [
        sequence([group + 1] * 3, [90 + group, number], 10 * group + number) for group, size in enumerate(sizes) for number in range(size)
    ]
    found = mismatched(rows, limit=None)
    answers = [tuple(row.input_ids[row.completion_mask]) for row in found]
    assert sorted(answers) == sorted(tuple(row.input_ids[row.completion_mask]) for row in rows)
    for row, own in zip(found, rows, strict=True):
        assert tuple(row.input_ids[:3]) == tuple(own.input_ids[:3])
        assert row.input_ids[3] - 90 != own.input_ids[0] - 1, "an answer under its own prompt"


def test_where_one_prompt_has_most_answers_the_rest_of_them_have_no_foreign_prompt():
    rows = [sequence([1, 1], [5 + number], number) for number in range(4)] + [sequence([2, 2], [9], 4)]
    found = mismatched(rows, limit=None)
    kept = [(tuple(row.input_ids[:2]), int(row.input_ids[2])) for row in found if row is not None]
    assert kept
    assert all((prompt == (1, 1)) == (answer == 9) for prompt, answer in kept)
    assert mismatched([sequence([1, 1], [5], 0), sequence([2, 2], [6] * 9, 1)], limit=4)[0] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "dop"}, "did you mean 'dpo'"),
        ({"objective": {"name": "dpo", "betta": 0.1}}, "did you mean 'beta'"),
        ({"objective": {"name": "dpo", "beta": 0}}, "greater than 0"),
        ({"objective": "sft"}, "neither pairs nor labelled answers"),
        ({"objective": {"beta": 0.1}}, "needs a name"),
        ({"objective": {"name": ["dpo"]}}, "needs a name"),
        ({"objective": {"name": 5}}, "needs a name"),
        ({"objective": "dpo", "unpair": True}, "'unpair' splits pairs"),
        ({"lora": {"dropout": 0.1}}, "share_prefixes: false"),
        ({"watch": {"evry_steps": 2}}, "did you mean 'every_steps'"),
    ],
)
def test_settings_that_are_wrong_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        STAGES.get("preference").parse({"data": "x", **settings}, where="recipe")


def test_learning_rates_are_those_of_the_method_unless_given():
    rate = {name: parse(PreferenceConfig, {"data": "x", **more}, where="t").training.learning_rate for name, more in RATES.items()}
    assert rate == {"full": 1e-6, "lora": 1e-5, "given": 3e-7}


RATES = {"full": {}, "lora": {"lora": {}}, "given": {"training": {"learning_rate": 3e-7}}}


def test_kto_on_answers_to_one_prompt_is_refused(tmp_path, contract):
    rows = [{**row, "prompt": "Which?"} for row in LABELS]
    model = tmp_path / "model"
    write_tiny_model(model, TEXTS, seed=1, vocab_size=320, hidden=32)
    with pytest.raises(DataError, match="every answer is to the same prompt"):
        run_preference(configure(tmp_path, rows, objective="kto"), model, tmp_path / "out")


def test_the_dumped_settings_parse_to_the_same_settings(tmp_path):
    config = configure(tmp_path, objective={"name": "simpo", "gamma": 0.7})
    again = parse(PreferenceConfig, json.loads(json.dumps(config.dump())), where="t")
    assert again == config
    assert dict(again.objective)["gamma"] == 0.7
