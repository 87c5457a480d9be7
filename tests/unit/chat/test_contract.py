"""One hash for what decides text and ids, one rule from messages to ids, and differences that can be read."""

import json
import os
import shutil
from datetime import datetime

import pytest
from families import FAMILIES, MASKABLE, as_dicts, contract, tokenizer
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from posttrain.chat import CONTRACT_FILE, ChatContract, load_record
from posttrain.chat.golden import GOLDEN, describe_difference, first_difference
from posttrain.errors import ContractError
from posttrain.records import Demonstration, Message

TURNS = (Message("user", "What is 12 * 7?"), Message("assistant", "84"), Message("user", "Sure?"))


@pytest.fixture
def folder(tmp_path):
    contract("smollm2").save(tmp_path / "model")
    return tmp_path / "model"


def rebuilt(change) -> ChatContract:
    """The smollm2 contract after ``change(state)`` of its tokenizer.json."""
    state = json.loads(tokenizer("smollm2").backend_tokenizer.to_str())
    change(state)
    backend = Tokenizer.from_str(json.dumps(state))
    return ChatContract(
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", bos_token="<|im_start|>"), FAMILIES["smollm2"].template
    )


def test_hash_survives_saving_loading_moving_and_reformatting(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(folder, moved)
    file = moved / "tokenizer.json"
    state = json.loads(file.read_text())
    state["model"]["vocab"] = dict(sorted(state["model"]["vocab"].items(), reverse=True))
    state["added_tokens"].sort(key=lambda token: token["id"])
    file.write_text(json.dumps(state, indent=7, ensure_ascii=True, sort_keys=True))
    assert ChatContract.load(moved).hash == ChatContract.load(folder).hash == contract("smollm2").hash


def test_whatever_a_template_raises_is_its_own_fault_and_one_message(folder):
    broken = ChatContract.load(
        folder, template="{% if messages[0].content == 'four' %}{{ 1 // 0 }}{% endif %}" + FAMILIES["smollm2"].template
    )
    with pytest.raises(ContractError, match=r"the chat template refuses this conversation \(user\): .*zero"):
        broken.render([Message("user", "four")])


def test_hash_survives_what_a_training_library_sets(folder):
    changed = AutoTokenizer.from_pretrained(folder)
    changed.pad_token = changed.eos_token
    changed.padding_side = "left"
    changed.model_max_length = 77
    changed.backend_tokenizer.enable_truncation(5)
    changed.backend_tokenizer.enable_padding()
    changed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 462)]
    )
    other = ChatContract(changed)
    assert other.hash == contract("smollm2").hash
    assert other.encode(TURNS).tolist() == contract("smollm2").encode(TURNS).tolist()


def swap_merges(state):
    merges = state["model"]["merges"]
    merges[3], merges[4] = merges[4], merges[3]


@pytest.mark.parametrize(
    "change",
    [
        swap_merges,
        lambda state: state["model"]["merges"].pop(),
        lambda state: state.update(normalizer={"type": "NFC"}),
        lambda state: state["pre_tokenizer"].update(add_prefix_space=True),
        lambda state: state["added_tokens"][0].update(rstrip=True),
        lambda state: state["added_tokens"].pop(),
        lambda state: state["model"].update(ignore_merges=True),
    ],
    ids=["merge order", "merge gone", "normaliser", "pre-tokenizer", "token flag", "added token gone", "model flag"],
)
def test_hash_changes_with_anything_that_can_change_ids(change):
    assert rebuilt(lambda state: None).hash == contract("smollm2").hash
    assert rebuilt(change).hash != contract("smollm2").hash


def test_hash_changes_with_template_and_named_special_tokens():
    same = ChatContract(tokenizer("smollm2"), FAMILIES["smollm2"].template)
    assert same.hash == contract("smollm2").hash
    assert ChatContract(tokenizer("smollm2"), FAMILIES["smollm2"].template + " ").hash != same.hash
    other = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer("smollm2").backend_tokenizer, eos_token="<|endoftext|>", bos_token="<|im_start|>"
    )
    assert ChatContract(other, FAMILIES["smollm2"].template).hash != same.hash


@pytest.mark.parametrize("name", [name for name in MASKABLE if name != "llama3"])
def test_text_and_ids_are_those_of_transformers(name):
    rows = as_dicts(TURNS)
    assert contract(name).render(TURNS, add_generation_prompt=True) == tokenizer(name).apply_chat_template(
        rows, tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(name).apply_chat_template(rows, add_generation_prompt=True, return_dict=False)
    assert contract(name).encode(TURNS, add_generation_prompt=True).tolist() == ids


def test_a_template_that_asks_for_the_date_always_gets_the_same_one():
    text = contract("llama3").render(TURNS)
    assert "Today Date: 26 Jul 2024" in text
    assert datetime.now().strftime("%d %b %Y") not in text
    assert contract("llama3").record()["settings"] == {"date": "2024-07-26"}
    assert contract("smollm2").record()["settings"] == {}


def test_there_is_one_bos_even_when_the_tokenizer_would_add_another():
    backend = Tokenizer.from_str(tokenizer("llama3").backend_tokenizer.to_str())
    bos = backend.token_to_id("<|begin_of_text|>")
    backend.post_processor = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)])
    adding = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", chat_template=FAMILIES["llama3"].template
    )
    assert adding.encode("x")[0] == bos
    ids = ChatContract(adding).encode(TURNS).tolist()
    assert ids[0] == bos
    assert ids.count(bos) == 1


def test_decode_gives_the_text_of_an_answer_without_its_end_of_turn():
    sequence = contract("smollm2").supervise(Demonstration((TURNS[0], Message("assistant", "  two  spaces , and 🙂\n"))))
    assert contract("smollm2").decode(sequence.input_ids[sequence.completion_mask]) == "  two  spaces , and 🙂\n"


def test_save_writes_a_record_that_checks_against_what_is_loaded(folder):
    recorded = load_record(folder)
    assert recorded["hash"] == contract("smollm2").hash
    assert recorded == json.loads((folder / CONTRACT_FILE).read_text())
    ChatContract.load(folder).check_same(recorded, what="adapter")


def test_another_template_is_refused_with_the_first_differing_token_and_a_diff(folder):
    other = ChatContract.load(folder, template=FAMILIES["smollm2"].template.replace("helpful AI assistant", "careful AI assistant"))
    with pytest.raises(ContractError) as error:
        other.check_same(load_record(folder), what="adapter runs/7")
    message = str(error.value)
    old, new = contract("smollm2").encode(TURNS[:1], add_generation_prompt=True), other.encode(TURNS[:1], add_generation_prompt=True)
    place = first_difference(old.tolist(), new.tolist())
    assert message.startswith("adapter runs/7 was made under another chat contract")
    assert "changed: template" in message
    assert f"first differing token: position {place}" in message
    assert f">>{contract('smollm2')._backend.id_to_token(int(old[place]))}({old[place]})<<" in message
    assert "-{{- '<|im_start|>system\\nYou are a helpful AI assistant" in message


def test_another_tokenizer_is_named_as_such():
    lines = describe_difference(contract("smollm2").record(), rebuilt(swap_merges).record())
    assert "changed: tokenizer" in lines
    lines = describe_difference(
        contract("smollm2").record(), rebuilt(lambda state: state.update(normalizer={"type": "Lowercase"})).record()
    )
    assert any("first differing token" in line for line in lines)


def test_golden_conversations_keep_text_ids_and_refusals():
    golden = {entry["name"]: entry for entry in contract("gemma").record()["golden"]}
    assert set(golden) == {conversation.name for conversation in GOLDEN}
    assert "System role not supported" in golden["system"]["refused"]
    assert "does not print tool calls" in golden["tool"]["refused"]
    assert golden["answer"]["ids"] == tokenizer("gemma").encode(golden["answer"]["text"], add_special_tokens=False)


def test_first_difference_of_a_prefix_is_its_length():
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([1, 2], [1, 2]) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer can be loaded"),
        ({"tokenizer.json": "{"}, "no tokenizer can be loaded"),
    ],
    ids=["empty folder", "broken tokenizer.json"],
)
def test_a_folder_that_is_no_model_is_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ContractError, match=message):
        ChatContract.load(tmp_path)


def test_missing_folder_missing_template_and_broken_template_are_refused(tmp_path, folder):
    with pytest.raises(ContractError, match="no such folder"):
        ChatContract.load(tmp_path / "nowhere")
    with pytest.raises(ContractError, match=r"does not compile \(line 2\)"):
        ChatContract.load(folder, template="{% for m in messages %}\n{% endif %}")
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer("smollm2").backend_tokenizer, eos_token="<|im_end|>")
    with pytest.raises(ContractError, match="no chat template"):
        ChatContract(bare)
    several = PreTrainedTokenizerFast(tokenizer_object=tokenizer("smollm2").backend_tokenizer, chat_template={"default": "a", "rag": "b"})
    with pytest.raises(ContractError, match="several chat templates"):
        ChatContract(several)


def test_a_template_cannot_reach_outside_its_sandbox(folder):
    with pytest.raises(ContractError):
        ChatContract.load(folder, template="{{ ''.__class__.__mro__[1].__subclasses__() }}")


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 99, "hash": "x"}', '{"schema": 1}'])
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ContractError, match="record"):
        load_record(tmp_path / "record.json")


@pytest.mark.skipif("POSTTRAIN_TEST_MODEL" not in os.environ, reason="POSTTRAIN_TEST_MODEL names no model folder")
def test_a_real_model_folder_gives_the_ids_of_transformers():
    real = ChatContract.load(os.environ["POSTTRAIN_TEST_MODEL"])
    ids = real.tokenizer.apply_chat_template(as_dicts(TURNS), add_generation_prompt=True, return_dict=False)
    assert real.encode(TURNS, add_generation_prompt=True).tolist() == ids
