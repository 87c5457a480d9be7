"""Scores that need a model: by plain transformers' own figures."""

import json
import shutil

import pytest
import torch

from posttrain.chat import ChatContract
from posttrain.errors import ConfigError
from posttrain.evaluation import ScoringModels, evaluate, load_suite
from posttrain.generation import LocalGenerator
from posttrain.models import write_tiny_model
from posttrain.records import Message

SUITE = """
name: pairs
version: "1"
cases: cases.jsonl
sampling: {max_new_tokens: 6}
scorers:
  - likelihood: {name: preferred}
  - drift: {name: drift}
"""
TEXTS = ["the balance of account one is 120.50", "the budget for travel is spent", "transfer refused: needs approval"] * 4
PAIR = {"chosen": "the budget is spent", "rejected": "transfer refused"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    start = write_tiny_model(root / "start", TEXTS, seed=1, vocab_size=300, hidden=32, layers=2)
    other = write_tiny_model(root / "other", TEXTS, seed=2, vocab_size=300, hidden=32, layers=2)
    return start, other


@pytest.fixture
def suite(make_suite):
    return load_suite(make_suite([("is the budget spent?", PAIR, ["pair"], ""), ("and the balance?", None, ["free"], "")], SUITE))


def run(suite, model, reference, folder, **options):
    generator = LocalGenerator.load(model, dtype="float32")
    return evaluate(suite, generator, out_dir=folder, models=ScoringModels(model, None, reference, dtype="float32"), **options)


def plain_logprobs(model_path, prompt_ids, answer_ids):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path)
    ids = torch.tensor([[*prompt_ids, *answer_ids]])
    with torch.no_grad():
        logprobs = model(ids).logits[0, :-1].log_softmax(-1)
    return logprobs[len(prompt_ids) - 1 :].gather(1, ids[0, len(prompt_ids) :, None])[:, 0]


def test_likelihood_is_the_models_own_mean_log_probability(suite, models, tmp_path):
    result = run(suite, models[1], models[0], tmp_path / "out")
    contract, case = ChatContract.load(models[1]), suite.cases[0]
    means = {}
    for side, text in PAIR.items():
        sequence = contract.encode_completion(case.messages, (Message("assistant", text),))
        start = int(sequence.completion_mask.argmax())
        end = start + sequence.num_supervised  # a template may write more after the end of the turn
        means[side] = float(plain_logprobs(models[1], sequence.input_ids[:start], sequence.input_ids[start:end]).mean())
    scores = result.samples["c0", 0].scores
    assert scores["preferred_chosen"].value == pytest.approx(means["chosen"], abs=1e-5)
    assert scores["preferred_margin"].value == pytest.approx(means["chosen"] - means["rejected"], abs=1e-5)
    assert scores["preferred"].value == float(means["chosen"] > means["rejected"])
    assert result.samples["c1", 0].scores["preferred"].status == "not_applicable"


def test_drift_is_the_log_ratio_of_the_ids_that_were_generated(suite, models, tmp_path):
    result = run(suite, models[1], models[0], tmp_path / "out")
    for (case_id, _), sample in result.samples.items():
        case = next(case for case in suite.cases if case.id == case_id)
        prompt = ChatContract.load(models[1]).encode(case.messages, add_generation_prompt=True)
        own, reference = (float(plain_logprobs(path, prompt, sample.token_ids).sum()) for path in (models[1], models[0]))
        assert sample.scores["drift"].value == pytest.approx(own - reference, abs=1e-4)
    same = run(suite, models[0], models[0], tmp_path / "same")
    assert all(sample.scores["drift"].value == 0 for sample in same.samples.values())


def test_scores_lost_to_a_kill_are_made_again_and_the_others_kept(suite, models, tmp_path):
    first = run(suite, models[1], models[0], tmp_path / "out")
    file = tmp_path / "out" / "model_scores.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:1]) + lines[1][:20])
    again = run(suite, models[1], models[0], tmp_path / "out")
    assert {key: sample.scores for key, sample in again.samples.items()} == {key: sample.scores for key, sample in first.samples.items()}
    assert len(file.read_text().splitlines()) == len(lines)


def test_another_reference_in_the_same_folder_is_refused(suite, models, tmp_path):
    run(suite, models[1], models[0], tmp_path / "out")
    with pytest.raises(ConfigError, match="another reference or reward model"):
        run(suite, models[1], models[1], tmp_path / "out")


def test_a_suite_that_needs_models_says_so(suite, models, tmp_path):
    with pytest.raises(ConfigError, match="preferred, drift need models"):
        evaluate(suite, LocalGenerator.load(models[0], dtype="float32"), out_dir=tmp_path / "out")
    with pytest.raises(ConfigError, match="no reference model"):
        evaluate(suite, LocalGenerator.load(models[0], dtype="float32"), out_dir=tmp_path / "other", models=ScoringModels(models[0]))


def test_an_unknown_reward_role_is_refused(make_suite, models, tmp_path):
    suite = load_suite(make_suite([("a question", None, [], "")], SUITE + "  - reward: {model: held-out}\n"))
    assert suite.reward_roles == ("held-out",)
    with pytest.raises(ConfigError, match="no reward model plays 'held-out'"):
        run(suite, models[0], models[0], tmp_path / "out")


def test_ids_are_kept_only_where_a_score_needs_them(make_suite, models, tmp_path):
    suite = load_suite(make_suite([("a question", None, [], "")]))
    evaluate(suite, LocalGenerator.load(models[0], dtype="float32"), out_dir=tmp_path / "out")
    assert "token_ids" not in json.loads((tmp_path / "out" / "results.jsonl").read_text())
    shutil.rmtree(tmp_path / "out")
