"""Requests in, answers out: order, text, limits, identity, adapters, errors before any work."""

import dataclasses
import json
import shutil

import pytest
import torch

from posttrain.errors import ConfigError, ContractError, DataError, ModelError
from posttrain.generation import LocalGenerator
from posttrain.records import GenerationRequest, Message, SamplingSettings


def ask(text, id="", **sampling):
    return GenerationRequest((Message("user", text),), sampling=SamplingSettings(**{"max_new_tokens": 8, **sampling}), id=id)


def test_a_prompt_with_a_token_the_model_has_no_row_for_is_refused_before_anything_runs(tiny_generator):
    rows = tiny_generator.model.get_input_embeddings().weight.shape[0]
    with pytest.raises(ModelError, match=rf"gives token id {rows}, the embedding has {rows} rows"):
        tiny_generator.generate([GenerationRequest((), prompt_ids=(3, 4)), GenerationRequest((), prompt_ids=(3, rows))])


def test_answers_come_in_the_order_asked_and_are_reported_as_they_finish(tiny_generator):
    requests = [ask(f"account {i}", f"r{i}", max_new_tokens=12 - 2 * i) for i in range(6)]
    seen = []
    answers = tiny_generator.generate(requests, on_done=lambda index, answer: seen.append((index, answer.id)))
    assert [answer.id for answer in answers] == [request.id for request in requests]
    assert sorted(seen) == [(i, f"r{i}") for i in range(6)]
    assert seen != sorted(seen), "shorter answers finish first"
    for i, answer in enumerate(answers):
        assert answer.num_completion_tokens == len(answer.token_ids) <= 12 - 2 * i
        assert answer.num_prompt_tokens == len(tiny_generator.contract.encode(requests[i].messages, add_generation_prompt=True))
        assert answer.seconds > 0


def test_no_requests_give_no_answers(tiny_generator):
    assert tiny_generator.generate([]) == []


class Rule:
    """A constraint given as a function (generated ids, logits) -> None."""

    is_finished = False

    def __init__(self, rule):
        self.rule, self.generated = rule, []

    def mask(self, logits):
        self.rule(self.generated, logits)

    def push(self, token):
        self.generated.append(token)

    def forced(self):
        return []


def test_the_end_token_is_counted_and_not_shown(tiny_generator, monkeypatch):
    end = tiny_generator.contract.eos_token_ids[0]

    def end_after(request):
        def rule(generated, logits):
            logits[end] = 1e9 if len(generated) == int(request.id) else -1e9

        return Rule(rule)

    monkeypatch.setattr(tiny_generator, "_constraint", end_after)
    requests = [ask("pay", str(n), max_new_tokens=5, logprobs=True) for n in (0, 3, 9)]
    empty, short, long = tiny_generator.generate(requests)
    assert (empty.token_ids, empty.text, empty.finish_reason) == ((end,), "", "stop")
    assert (short.token_ids[-1], len(short.logprobs), short.num_completion_tokens, short.finish_reason) == (end, 4, 4, "stop")
    assert (end in long.token_ids, long.num_completion_tokens, long.finish_reason) == (False, 5, "length")
    assert short.text == tiny_generator.contract.decode(short.token_ids[:-1])
    assert "<|im_end|>" not in short.text


def test_a_stop_string_cuts_the_text_and_ends_the_answer(tiny_generator):
    [free] = tiny_generator.generate([ask("tell me", max_new_tokens=30, temperature=1.0, seed=4)])
    stop = free.text[8:11]
    [cut] = tiny_generator.generate([ask("tell me", max_new_tokens=30, temperature=1.0, seed=4, stop=(stop,))])
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.token_ids == free.token_ids[: len(cut.token_ids)]


def test_streamed_pieces_joined_are_the_text(tiny_generator):
    pieces = {0: "", 1: ""}
    requests = [ask("one", max_new_tokens=20), ask("two", max_new_tokens=20, temperature=1.0)]

    def add(index, piece):
        pieces[index] += piece

    answers = tiny_generator.generate(requests, on_text=add)
    plain = tiny_generator.generate(requests)
    assert [pieces[0], pieces[1]] == [answer.text for answer in answers] == [answer.text for answer in plain]


def test_a_prompt_longer_than_the_context_is_refused_by_name_before_any_work(tiny_generator):
    done = []
    requests = [ask("short", "fine"), ask("ledger " * 300, "too-long")]
    with pytest.raises(DataError, match=r"request 1 \('too-long'\): the prompt has \d+ tokens; the context is 160"):
        tiny_generator.generate(requests, on_done=lambda *args: done.append(args))
    assert done == []


def test_an_answer_ends_where_the_context_ends(tiny_generator, monkeypatch):
    end = tiny_generator.contract.eos_token_ids[0]

    def never_end(generated, logits):
        logits[end] = float("-inf")

    request = ask("the ledger shows paid and owed " * 8, max_new_tokens=1000)
    monkeypatch.setattr(tiny_generator, "_constraint", lambda request: Rule(never_end))
    [answer] = tiny_generator.generate([request])
    assert answer.finish_reason == "length"
    assert answer.num_prompt_tokens + answer.num_completion_tokens == 160


def test_a_wrong_setting_is_refused_with_the_request_named(tiny_generator):
    with pytest.raises(ConfigError, match=r"request 1 \('b'\): sampling.top_p is 0"):
        tiny_generator.generate([ask("a", "a"), ask("b", "b", top_p=0.0)])


def test_a_bound_on_the_cache_makes_batches_smaller(tiny_folder):
    requests = [ask(f"account {i} of the ledger", max_new_tokens=20) for i in range(4)]
    bytes_per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, key heads, head size, float32
    wide = LocalGenerator.load(tiny_folder, dtype="float32", batch_size=4)
    narrow = LocalGenerator.load(tiny_folder, dtype="float32", batch_size=4, cache_gib=100 * bytes_per_token / 2**30)
    assert [a.token_ids for a in narrow.generate(requests)] == [a.token_ids for a in wide.generate(requests)]
    with pytest.raises(ConfigError, match=r"request 0: \d+ tokens and \d+ new ones do not fit into the cache"):
        narrow.generate([ask("x", max_new_tokens=150)])


def test_the_identity_names_weights_contract_and_precision(tiny_folder, tiny_generator, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    from safetensors.torch import load_file, save_file

    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] += 1.0
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    changed = LocalGenerator.load(other, dtype="float32").identity
    assert changed["model"] != tiny_generator.identity["model"]
    assert {**changed, "model": None} == {**tiny_generator.identity, "model": None}
    assert tiny_generator.identity["contract"] == tiny_generator.contract.hash
    assert LocalGenerator.load(tiny_folder, dtype="bfloat16").identity["dtype"] == "bfloat16"
    json.dumps(changed)


@pytest.fixture
def adapter(tiny_folder, tiny_contract, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_folder), LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"])
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "adapter")
    tiny_contract.save(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_merged_or_beside_the_weights_gives_its_own_tokens(tiny_folder, tiny_generator, adapter):
    requests = [ask(f"account {i}") for i in range(4)]
    merged = LocalGenerator.load(tiny_folder, adapter, dtype="float32")
    beside = LocalGenerator.load(tiny_folder, adapter, dtype="float32", merge=False)
    tokens = [answer.token_ids for answer in merged.generate(requests)]
    assert tokens == [answer.token_ids for answer in beside.generate(requests)]
    assert tokens != [answer.token_ids for answer in tiny_generator.generate(requests)]
    assert merged.identity["adapter"] == beside.identity["adapter"] is not None


def test_an_adapter_of_another_contract_is_refused(tiny_folder, adapter):
    record = json.loads((adapter / "contract.json").read_text())
    record["hash"] = "chat:" + "0" * 64
    record["template"] = "{{ messages[0]['content'] }}"
    record["parts"]["template"] = "0" * 64
    (adapter / "contract.json").write_text(json.dumps(record))
    with pytest.raises(ContractError, match=r"adapter .* was made under another chat contract"):
        LocalGenerator.load(tiny_folder, adapter)


def test_after_the_weights_change_nothing_old_is_shared(tiny_folder):
    from posttrain.chat import ChatContract
    from posttrain.models import load_for_inference

    model = load_for_inference(tiny_folder, dtype="float32")
    generator = LocalGenerator(model, ChatContract.load(tiny_folder))
    request = ask("the ledger of account 7 shows what, please?")
    generator.generate([request])
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    generator.forget()
    fresh = LocalGenerator(model, generator.contract).generate([request])
    assert generator.generate([request])[0].token_ids == fresh[0].token_ids


def test_a_conversation_computes_only_what_is_new(tiny_generator):
    """The second turn shares the first turn's prompt and answer with the slot that computed them."""
    seen = []
    tiny_generator.model.get_input_embeddings().register_forward_hook(lambda module, args, out: seen.append(args[0].numel()))
    turns = (Message("user", "the ledger of account 7"),)
    sampling = SamplingSettings(max_new_tokens=6)
    [first] = tiny_generator.generate([GenerationRequest(turns, sampling=dataclasses.replace(sampling, max_new_tokens=40))])
    seen.clear()
    more = (*turns, Message("assistant", first.text), Message("user", "and?"))
    [second] = tiny_generator.generate([GenerationRequest(more, sampling=dataclasses.replace(sampling, max_new_tokens=1))])
    assert seen[0] < second.num_prompt_tokens - first.num_prompt_tokens + 1
    fresh = LocalGenerator(tiny_generator.model, tiny_generator.contract)
    assert (
        fresh.generate([GenerationRequest(more, sampling=dataclasses.replace(sampling, max_new_tokens=1))])[0].token_ids == second.token_ids
    )
