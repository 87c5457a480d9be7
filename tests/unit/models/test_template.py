import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.chat import ChatContract, template_text
from posttrain.errors import ContractError
from posttrain.models import with_chat_template
from posttrain.records import Message


def test_the_weights_stay_and_the_contract_changes(model_path, tmp_path):
    folder = with_chat_template(model_path, template_text("chatml-tools"), tmp_path / "dressed")
    before, after = ChatContract.load(model_path), ChatContract.load(folder)
    assert before.hashes["template"] != after.hashes["template"]
    assert before.hashes["tokenizer"] == after.hashes["tokenizer"]
    assert after.call_format is not None
    weights = [AutoModelForCausalLM.from_pretrained(place).state_dict() for place in (model_path, folder)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    after.check_same(ChatContract.load(folder).record(), what="the folder")
    assert "<tools>" in after.render([Message("user", "hi")], tools=[{"function": {"name": "f"}}])


def test_a_template_that_never_ends_a_turn_is_refused_and_nothing_is_written(model_path, tmp_path):
    with pytest.raises(ContractError, match="no special token behind an assistant turn"):
        with_chat_template(model_path, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", tmp_path / "dressed")
    assert not list(tmp_path.iterdir())
