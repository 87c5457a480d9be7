import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from reward_data import long_rows, pairs_of, polite_rows
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from posttrain.chat import ChatContract
from posttrain.errors import CheckFailed, ConfigError, ContractError, DataError, ModelError
from posttrain.metrics import wilson
from posttrain.models import write_tiny_model
from posttrain.records import Message
from posttrain.rewards import (
    CALIBRATION_FILE,
    Calibration,
    RewardEnsemble,
    RewardModel,
    evaluate_pairs,
    fit_calibration,
    fitting_pairs,
    run_probes,
    write_reward_report,
)
from posttrain.rewards.probes import decorated, flattered, length_correlation, padded

UNSEEN = polite_rows(60, seed=9)


def copy_of(model, folder, change):
    """The model's folder with its weights changed."""
    target = folder / "changed"
    target.mkdir()
    for file in model.folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    weights = load_file(target / "model.safetensors")
    save_file(change(weights), target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_scores_are_those_of_transformers_in_the_order_asked(judge):
    stock = AutoModelForSequenceClassification.from_pretrained(judge.folder)
    asked = [(pair.prompt, side) for pair in pairs_of(UNSEEN[:6]) for side in (pair.rejected, pair.chosen)]
    with torch.no_grad():
        expected = [
            float(stock(torch.from_numpy(judge.contract.encode((*prompt, *answer))).long()[None]).logits) for prompt, answer in asked
        ]
    assert judge.score(asked) == pytest.approx(expected, abs=1e-5)
    assert judge.score(asked[::-1]) == pytest.approx(expected[::-1], abs=1e-5)


def test_how_many_are_packed_together_changes_nothing(judge):
    asked = [(pair.prompt, pair.chosen) for pair in pairs_of(UNSEEN[:8])]
    alone = RewardModel.load(judge.folder, dtype="float32", batch_tokens=1)
    assert alone.score(asked) == pytest.approx(judge.score(asked), abs=1e-5)


def test_what_was_learned_holds_on_prompts_never_seen(judge):
    result = evaluate_pairs(judge, {"unseen": pairs_of(UNSEEN)}, probes=False)
    assert result.slices["all"].accuracy.low > 0.5
    assert not result.warnings


def test_accuracy_counts_ties_as_not_right_and_leaves_undecided_labels_out(judge):
    pairs = pairs_of(UNSEEN[:10])
    right = [judge.score([(pair.prompt, pair.chosen), (pair.prompt, pair.rejected)]) for pair in pairs]
    assert all(chosen > rejected for chosen, rejected in right), "the model knows these"
    tie = replace(pairs[0], rejected=pairs[0].chosen)
    wrong = replace(pairs[1], chosen=pairs[1].rejected, rejected=pairs[1].chosen)
    turned = replace(wrong, probability=0.0)
    undecided = replace(pairs[2], probability=0.5)
    result = evaluate_pairs(judge, {"mixed": [tie, wrong, turned, undecided, *pairs[3:]]}, probes=False).slices["all"]
    assert (result.pairs, result.right, result.ties, result.undecided) == (10, 8, 1, 1)
    # two pairs are of one prompt (wrong and turned), so the interval is not narrower than Wilson's for ten separate ones
    low, high = wilson(8, 10)
    assert result.accuracy.low <= low < high <= result.accuracy.high


def test_slices_are_reported_apart(judge):
    known, turned = pairs_of(UNSEEN[:20]), pairs_of([row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in UNSEEN[20:40]])
    result = evaluate_pairs(judge, {"known": known, "turned": turned}, probes=False)
    assert result.slices["known"].accuracy.value == 1 - result.slices["turned"].accuracy.value == 1.0
    assert result.slices["all"].accuracy.value == 0.5
    assert any("slice 'turned': accuracy 0.000" in warning for warning in result.warnings)


def test_probability_is_the_logistic_of_the_difference_over_the_temperature(judge):
    t = judge.temperature
    assert judge.probability(1.0, 0.0) == pytest.approx(1 / (1 + math.exp(-1 / t)))
    assert judge.probability(2.0, 2.0) == 0.5
    assert judge.probability(1e9, 0.0) == 1.0


def test_a_temperature_of_perfectly_ordered_pairs_is_finite(judge):
    pairs = pairs_of(UNSEEN)
    found = fit_calibration(judge, pairs)
    assert evaluate_pairs(judge, {"x": pairs}, probes=False).slices["all"].right == 60
    # each of the 60 labels counts as 61/62 certain, so the mean stated probability cannot be above that of a constant difference
    differences = np.diff(np.array(judge.score([(p.prompt, s) for p in pairs for s in (p.rejected, p.chosen)])).reshape(-1, 2))[:, 0]
    assert 0 < found.temperature < math.inf
    stated = 1 / (1 + np.exp(-differences / found.temperature))
    # the likelihood's own equation: sum d (target - stated) = 0
    assert float((differences * (61 / 62 - stated)).sum()) == pytest.approx(0, abs=1e-6 * float(np.abs(differences).sum()))


def test_constant_rewards_are_refused_with_figures(judge, tmp_path):
    flat = RewardModel.load(copy_of(judge, tmp_path, lambda weights: weights | {"score.weight": weights["score.weight"] * 0}))
    pairs = pairs_of(UNSEEN[:12])
    with pytest.raises(CheckFailed, match=r"both sides of all 12 calibration pairs get the same reward \(mean 0, standard deviation 0\)"):
        fit_calibration(flat, pairs)
    result = evaluate_pairs(flat, {"x": pairs})
    assert "constant rewards: all 24 texts get 0" in result.warnings[0]
    assert (result.slices["all"].right, result.slices["all"].ties) == (0, 12)
    with pytest.raises(ConfigError, match="all 24 answers get the same reward"):
        run_probes(flat, pairs)


def test_rewards_that_are_not_numbers_are_refused(judge, tmp_path):
    huge = copy_of(judge, tmp_path, lambda weights: weights | {"score.weight": weights["score.weight"].sign() * 3e38})
    broken = RewardModel.load(huge)  # a product of finite weights that overflows
    with pytest.raises(ModelError, match=r"the reward of conversation 0 is (nan|-?inf) \(2 of 2 not finite\)"):
        broken.score([(pair.prompt, pair.chosen) for pair in pairs_of(UNSEEN[:2])])


def test_conversations_longer_than_the_context_are_never_cut(judge):
    pair = pairs_of([{"prompt": "word " * 300, "chosen": "yes", "rejected": "no"}])[0]
    with pytest.raises(DataError, match=r"1 of 1 conversations are longer than the reward model's 256 positions: row 1 \(\d+ tokens\)"):
        judge.score([(pair.prompt, pair.chosen)])
    assert fitting_pairs(judge.contract, [pair, *pairs_of(UNSEEN[:2])], judge.context_length) == pairs_of(UNSEEN[:2])


def test_a_causal_model_is_no_reward_model(start):
    with pytest.raises(ModelError, match="is no reward model: it has no score head"):
        RewardModel.load(start)


def test_another_tokenizer_is_refused_where_tokens_are_shared(judge, tmp_path):
    other = ChatContract.load(write_tiny_model(tmp_path / "other", ["quite other words are here"] * 9, seed=2, vocab_size=300, hidden=32))
    with pytest.raises(ContractError, match="the policy was made under another chat contract"):
        judge.require_contract(other, what="the policy")
    judge.require_contract(judge.contract, what="the policy")


def test_a_changed_tokenizer_in_the_folder_is_refused(judge, tmp_path):
    folder = copy_of(judge, tmp_path, lambda weights: weights)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_end|>", 1))
    with pytest.raises(ContractError, match="was made under another chat contract"):
        RewardModel.load(folder)


@pytest.mark.parametrize("content", ["{}", "no json", '{"temperature": 0}'])
def test_a_broken_calibration_is_refused(judge, tmp_path, content):
    folder = copy_of(judge, tmp_path, lambda weights: weights)
    (folder / CALIBRATION_FILE).write_text(content)
    with pytest.raises(ConfigError, match="no calibration can be read"):
        RewardModel.load(folder)


def test_the_probes_change_what_they_say():
    assert padded("Yes.").startswith("Yes. There is")
    assert flattered("Yes.").index("Yes.") > 10
    assert decorated("One two. Three four.\nFive") == "## Answer\n\n- **One** two.\n- **Three** four.\n- **Five**"


def test_a_model_that_loves_length_is_gamed_by_it_and_one_that_hates_it_is_not(length_judges):
    pairs = pairs_of(UNSEEN)
    verdicts = []
    for judge in length_judges:
        probes = {probe.name: probe for probe in run_probes(judge, pairs)}
        verdicts.append(probes["length"].verdict)
        assert probes["position"].verdict == "clean"
        assert abs(probes["position"].shift.value) < 1e-3
    assert verdicts == ["gamed", "clean"]


def test_length_correlation_follows_what_was_learned(length_judges):
    pairs = pairs_of(long_rows(60, seed=5))
    loves, hates = (length_correlation(judge, pairs) for judge in length_judges)
    assert loves.low > 0.5
    assert hates.high < -0.5


def test_an_ensemble_agrees_with_itself_and_splits_with_its_opposite(length_judges):
    pairs = pairs_of(long_rows(40, seed=6))
    loves, hates = length_judges
    same = RewardEnsemble([loves, loves]).disagreement(pairs)
    assert (same.order, same.split.value, same.spread) == (0.0, 0.0, 0.0)
    apart = RewardEnsemble([loves, hates]).disagreement(pairs)
    assert apart.order == apart.split.value > 0.8
    asked = [(pair.prompt, pair.chosen) for pair in pairs[:5]]
    each = np.array([judge.standardize(judge.score(asked)) for judge in length_judges])
    ensemble = RewardEnsemble(length_judges)
    assert ensemble.score(asked) == pytest.approx(each.mean(axis=0))
    assert ensemble.score(asked, how="min") == pytest.approx(each.min(axis=0))


def test_an_ensemble_needs_two_calibrated_members(judge, tmp_path):
    with pytest.raises(ConfigError, match="at least two reward models, got 1"):
        RewardEnsemble([judge])
    folder = copy_of(judge, tmp_path, lambda weights: weights)
    (folder / CALIBRATION_FILE).unlink()
    with pytest.raises(ConfigError, match=r"has no calibration\.json"):
        RewardEnsemble([judge, RewardModel.load(folder)])


def test_a_calibration_reads_back_what_was_written(judge, tmp_path):
    judge.calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == judge.calibration


def test_the_report_is_one_offline_file_with_everything_escaped(judge, tmp_path):
    result = evaluate_pairs(judge, {"<b>first</b>": pairs_of(UNSEEN[:30]), "second": pairs_of(UNSEEN[30:])})
    write_reward_report(tmp_path / "report.html", result)
    text = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;first&lt;/b&gt;" in text
    assert "<b>first" not in text
    assert not re.search(r"(src|href)=", text)
    assert text.count("<svg") == 4  # a bar for each slice and for all, and the reliability diagram
    assert json.loads(json.dumps(result.dump(), allow_nan=False))["slices"]["second"]["pairs"] == 30


def test_the_report_shows_length_seeds_and_what_was_left_out_without_probes(judge, tmp_path):
    pairs = [*pairs_of(UNSEEN[:30]), *pairs_of(long_rows(10))]
    result = evaluate_pairs(judge, {"x": pairs}, probes=False)
    split = {"order": 0.1, "split": result.slices["all"].accuracy, "spread": 0.0}
    seeds = {"accuracy": {17: 0.75, 18: 0.5}, "mean": 0.625, "deviation": 0.177, "disagreement": split}
    write_reward_report(tmp_path / "r.html", replace(result, seeds=seeds, left_out={"test slice 'x'": {"tie": 2}}))
    text = (tmp_path / "r.html").read_text()
    assert "Rank correlation of reward and length" in text
    assert "Accuracy 0.625 with a standard deviation of 0.177" in text
    assert "17: 0.750, 18: 0.500" in text
    assert "2 tie" in text


def test_answers_without_room_for_the_probes_are_a_warning_with_the_reason(judge):
    rows = [{"prompt": f"Number {n}?", "chosen": "word " * 38 + str(n), "rejected": "no"} for n in range(6)]
    pairs = [*pairs_of(UNSEEN[:3]), *pairs_of(rows)]
    reason = "of 9 prompts 3 have an answer that still fits 256 tokens when it is changed"
    result = evaluate_pairs(judge, {"x": pairs})
    assert not result.probes
    assert any(warning.startswith("not probed: ") and reason in warning for warning in result.warnings)
    with pytest.raises(ConfigError, match=reason):
        run_probes(judge, pairs)


def test_pairs_that_were_trained_or_calibrated_on_are_counted_wherever_they_are_evaluated(judge):
    known = pairs_of(polite_rows(240))  # the file it was trained from
    found = evaluate_pairs(judge, {"known": known, "new": pairs_of(UNSEEN)}, probes=False).warnings
    trained, calibrated = (len(judge.seen[use]) for use in ("training", "calibration"))
    assert trained > 100
    assert calibrated > 5
    assert (
        f"slice 'known': {trained} of 240 pairs are of dialogues the model was trained on: its figures say nothing about other pairs"
        in found
    )
    assert any(f"{calibrated} of 240 pairs are of dialogues the temperature was fitted on" in one for one in found)
    assert not any("slice 'new'" in one for one in found)


def test_a_temperature_from_few_pairs_or_that_makes_things_worse_is_told(judge):
    few = RewardModel(judge._model, judge.contract, folder=judge.folder, calibration=fit_calibration(judge, pairs_of(UNSEEN[:3])))
    assert any("was fitted on 3 pairs: P(better) is a guess" in one for one in evaluate_pairs(few, {"x": pairs_of(UNSEEN)}).warnings)
    worse = replace(judge.calibration, temperature=100 * judge.temperature)
    wrong = RewardModel(judge._model, judge.contract, folder=judge.folder, calibration=worse)
    assert any("makes calibration worse here" in one for one in evaluate_pairs(wrong, {"x": pairs_of(UNSEEN)}).warnings)


def test_intervals_of_a_temperature_and_of_length_take_pairs_of_one_prompt_together(judge):
    pairs = [*pairs_of(UNSEEN[:20]), *pairs_of(long_rows(20))]
    pairs = [pair if number % 3 else replace(pair, chosen=pair.rejected, rejected=pair.chosen) for number, pair in enumerate(pairs)]
    single, copied = fit_calibration(judge, pairs), fit_calibration(judge, pairs * 4)
    assert copied.temperature == pytest.approx(single.temperature)
    assert copied.low == pytest.approx(single.low, rel=0.2)
    assert length_correlation(judge, pairs * 4).method.endswith("40 groups")


TOOLS = ({"type": "function", "function": {"name": "price", "description": "", "parameters": {}}},)


def test_disagreement_and_probes_read_the_tools_of_a_pair(tooled):
    pairs = [replace(pair, tools=TOOLS) for pair in pairs_of(UNSEEN[:12])]
    other = RewardModel(tooled._model, tooled.contract, folder=tooled.folder, calibration=replace(tooled.calibration, temperature=2.0))
    first, second = (1 / (1 + np.exp(-np.diff(tooled.score_pairs(pairs)[:, ::-1])[:, 0] / t)) for t in (tooled.temperature, 2.0))
    expected = np.std([first, second], axis=0, ddof=1).mean()
    assert RewardEnsemble([tooled, other]).disagreement(pairs).spread == pytest.approx(float(expected), rel=1e-4)
    plain = [replace(pair, tools=()) for pair in pairs]
    shifts = [{probe.name: probe.shift.value for probe in run_probes(tooled, each)} for each in (pairs, plain)]
    deviation = float(tooled.score_pairs(pairs).std(ddof=1))
    longer = [replace(pair, chosen=(replace(pair.chosen[0], content=padded(pair.chosen[0].content)),)) for pair in pairs]
    moved = float((tooled.score_pairs(longer)[:, 0] - tooled.score_pairs(pairs)[:, 0]).mean()) / deviation
    assert shifts[0]["length"] == pytest.approx(moved, abs=1e-5)
    assert shifts[0]["length"] != pytest.approx(shifts[1]["length"], abs=1e-5)


def test_a_system_turn_and_tool_calls_are_scored_like_any_text(judge):
    prompt = (Message("system", "Be kind."), Message("user", "What does redcup 1 cost?"))
    assert len(judge.score([(prompt, (Message("assistant", "It costs 3 coins, thank you."),))])) == 1


def test_an_answer_is_cut_into_tokens_as_in_training(judge, tmp_path):
    """The tokenizer joins the generation prompt's newline with one the answer begins with; training keeps them apart."""
    joins = ChatContract.load(write_tiny_model(tmp_path / "joins", ["one\n\n  two"] * 30, seed=1, vocab_size=300, hidden=32))
    model = RewardModel(judge._model, joins, folder=judge.folder)
    prompt = (Message("user", "one"),)
    for answer, same in (("two", True), ("\n  two", False), ("", True)):
        turn = (Message("assistant", answer),)
        trained = joins.encode_completion(prompt, turn).input_ids.tolist()
        assert model.encode(prompt, turn).input_ids.tolist() == trained
        assert (joins.encode((*prompt, *turn)).tolist() == trained) is same


def test_a_slice_without_a_decided_pair_is_named(judge):
    undecided = [replace(pair, probability=0.5) for pair in pairs_of(UNSEEN[:3])]
    with pytest.raises(DataError, match="slice 'open': all 3 labels are one half"):
        evaluate_pairs(judge, {"known": pairs_of(UNSEEN[3:9]), "open": undecided}, probes=False)


def test_the_slice_all_is_that_of_all_slices(judge):
    with pytest.raises(ConfigError, match="a slice cannot be called 'all'"):
        evaluate_pairs(judge, {"all": pairs_of(UNSEEN[:4])}, probes=False)
