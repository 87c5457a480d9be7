"""The SFT stage on a tiny model and a small file, from Python."""

import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from posttrain.chat import ChatContract
from posttrain.config import parse
from posttrain.errors import CheckFailed, ConfigError, ContractError, DataError, InfrastructureError
from posttrain.lineage import LineageStore
from posttrain.models import load_for_inference, write_tiny_model
from posttrain.stages import STAGES, Quiet, SftConfig, run_sft

CARD = "source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n"
PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS = [
    [("system", "Answer in one word."), ("user", f"Book {book}: red, blue, green. Colour {number}?"), ("assistant", colour)]
    for book in range(6)
    for number, colour in enumerate(("red", "blue", "green"), 1)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    texts = [content for row in ROWS for _, content in row]
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", texts, seed=1, vocab_size=320, hidden=32)


def write_data(folder, rows=ROWS, card=CARD):
    path = folder / "rows.jsonl"
    lines = [json.dumps({"messages": [{"role": role, "content": content} for role, content in row]}) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    if card:
        (folder / "rows.jsonl.card.yaml").write_text(card)
    return str(path)


def configure(folder, **changes):
    settings = {"data": write_data(folder), "training": {"epochs": 4, "sequences_per_step": 6, "learning_rate": 5e-3}, **changes}
    return parse(SftConfig, settings, where="test")


class Heard(Quiet):
    def __init__(self):
        self.lines, self.steps = [], []

    def say(self, text):
        self.lines.append(text)

    def advance(self, done, total, note=""):
        self.steps.append((done, total))


def test_full_training_writes_a_model_that_loads_and_records_what_it_was_made_from(tmp_path, model):
    heard, store = Heard(), LineageStore(tmp_path / "lineage.db")
    result = run_sft(configure(tmp_path), model, tmp_path / "out", lineage=store, progress=heard)
    assert heard.lines[0].startswith("18 rows, ")
    assert heard.steps == [(step, 12) for step in range(1, 13)]  # 18 rows * 4 epochs / 6 a step
    assert result.adapter is None
    assert result.metrics["final_loss"] < 0.7 * result.metrics["first_loss"]
    assert result.metrics["packed_tokens"] < result.metrics["logical_tokens"] == 4 * result.metrics["tokens"]
    trained = load_for_inference(result.model, dtype="float32")
    assert not torch.equal(trained.get_input_embeddings().weight, load_for_inference(model, dtype="float32").get_input_embeddings().weight)
    recorded = json.loads((result.model / "contract.json").read_text())
    assert recorded["hash"] == ChatContract.load(model).hash
    assert {node.kind for node in store.ancestors(result.id)} == {"model", "data", "template", "config", "seed", "code", "environment"}
    assert store.verify() == []


def test_lora_writes_standard_adapter_files_that_change_the_model(tmp_path, model):
    result = run_sft(configure(tmp_path, lora={"rank": 4}), model, tmp_path / "out")
    assert result.model == model
    assert {"adapter_config.json", "adapter_model.safetensors", "contract.json"} <= {file.name for file in result.adapter.iterdir()}
    adapter = load_file(result.adapter / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    written = json.loads((result.adapter / "adapter_config.json").read_text())
    assert written["r"] == 4
    assert written["target_modules"] == sorted(written["target_modules"]), "the same adapter has the same files in every process"
    # attention of 2 layers, width 32, 4 heads of 8, 2 of them key/value: q 32->32, k and v 32->16, o 32->32
    assert result.metrics["trainable_parameters"] == 2 * 4 * (64 + 48 + 48 + 64)


def test_a_stopped_run_goes_on_and_ends_with_the_same_weights(tmp_path, model):
    class Stopper(Quiet):
        def advance(self, done, total, note=""):
            if done == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    config = configure(tmp_path)
    with pytest.raises(InfrastructureError, match="stopped by SIGTERM after step 6 of 12"):
        run_sft(config, model, tmp_path / "stopped", progress=Stopper())
    again = run_sft(config, model, tmp_path / "stopped")
    straight = run_sft(config, model, tmp_path / "straight")
    assert (again.model / "model.safetensors").read_bytes() == (straight.model / "model.safetensors").read_bytes()
    assert again.metrics == straight.metrics


def test_learning_rate_is_said_by_the_method_unless_given():
    assert SftConfig.model_validate({"data": "x"}).training.learning_rate == 1e-5
    assert SftConfig.model_validate({"data": "x", "lora": {"rank": 8}}).training.learning_rate == 2e-4
    assert SftConfig.model_validate({"data": "x", "adapter": "a"}).training.learning_rate == 2e-4
    given = SftConfig.model_validate({"data": "x", "lora": {}, "training": {"learning_rate": 3e-4, "epochs": 2}})
    assert (given.training.learning_rate, given.training.epochs) == (3e-4, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "x", "lorra": {}}, "unknown key 'lorra': did you mean 'lora'"),
        ({"data": "x", "training": {"epoch": 2}}, "unknown key 'training.epoch': did you mean 'epochs'"),
        ({"data": "x", "training": {"epochs": 0}}, r"'training.epochs': input should be greater than 0 \(got 0\)"),
        ({"data": "x", "on_too_long": "cut"}, "'on_too_long': input should be 'stop' or 'drop'"),
        ({"data": "x", "quantization": "nf4"}, "quantization 'nf4' freezes the model"),
        ({"data": "x", "lora": {"dropout": 0.1}}, "'lora.dropout' above 0 needs 'training.share_prefixes: false'"),
        ({}, "'data' is required"),
    ],
)
def test_settings_that_are_wrong_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        STAGES.get("sft").parse(settings, where="recipe")


def test_rows_longer_than_the_limit_stop_the_run_or_are_left_out_and_counted(tmp_path, model):
    rows = [*ROWS, [("user", "long " * 200), ("assistant", "no")]]
    with pytest.raises(DataError, match=r"1 of 19 rows longer than 120 tokens: 19 \(\d+ tokens\)") as caught:
        run_sft(_with(configure(tmp_path, max_tokens=120), tmp_path, rows), model, tmp_path / "a")
    assert "on_too_long: drop" in caught.value.hint
    heard = Heard()
    config = _with(configure(tmp_path, max_tokens=120, on_too_long="drop"), tmp_path, rows)
    result = run_sft(config, model, tmp_path / "b", progress=heard)
    assert (result.metrics["rows"], result.metrics["rows_too_long"]) == (18, 1)
    assert "left out: 1 too long" in heard.lines[0]


def test_rows_set_aside_are_told_with_the_file_they_went_to(tmp_path, model):
    heard, config = Heard(), configure(tmp_path, on_bad_row="skip", training={"max_steps": 1, "sequences_per_step": 6})
    with open(config.data, "a") as stream:
        stream.write("{broken\n")
    run_sft(config, model, tmp_path / "run", progress=heard)
    assert heard.lines[0].endswith(f"; set aside: 1, in {config.data}.rejects.jsonl")
    assert "{broken" in (tmp_path / "rows.jsonl.rejects.jsonl").read_text()


def test_rows_that_train_nothing_stop_the_run_or_are_left_out_and_counted(tmp_path, model):
    silent = json.dumps({"messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "x", "weight": 0}]})
    config = configure(tmp_path)
    with open(config.data, "a") as file:
        file.write(silent + "\n")
    with pytest.raises(DataError, match=r"1 of 19 rows that train nothing under mask 'assistant': 19 "):
        run_sft(config, model, tmp_path / "a")
    result = run_sft(config.model_copy(update={"on_nothing_supervised": "drop"}), model, tmp_path / "b")
    assert (result.metrics["rows"], result.metrics["rows_nothing_supervised"]) == (18, 1)


THOUGHT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "because"}]}


def test_rows_the_template_cannot_print_stop_the_run_or_are_left_out_or_train_on_the_rest(tmp_path, model):
    config = configure(tmp_path, training={"max_steps": 1, "sequences_per_step": 6})
    with open(config.data, "a") as file:
        file.write(json.dumps(THOUGHT) + "\n")
    with pytest.raises(DataError, match=r"1 of 19 rows hold what .* cannot print: .*rows.jsonl:19 \(reasoning of turn 1\)") as caught:
        run_sft(config, model, tmp_path / "a")
    assert "on_unprinted: train" in caught.value.hint
    for rule, rows, said in (("drop", 18, "left out: 1 that the template"), ("train", 19, "1 of them not printed whole")):
        heard = Heard()
        result = run_sft(config.model_copy(update={"on_unprinted": rule}), model, tmp_path / rule, progress=heard)
        assert (result.metrics["rows"], result.metrics["rows_unprinted"]) == (rows, 1)
        assert said in heard.lines[0]


def test_a_row_without_an_exact_mask_is_named_by_its_line_or_set_aside(tmp_path, model):
    tool = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    broken = {"messages": [{"role": "user", "content": "q"}, tool]}
    config = configure(tmp_path, training={"max_steps": 1, "sequences_per_step": 6})
    template = shutil.copytree(model, tmp_path / "plain") / "chat_template.jinja"
    template.write_text(PLAIN)
    with open(config.data, "a") as file:
        file.write("\n" + json.dumps(broken) + "\n" + json.dumps(THOUGHT) + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl:20: the chat template does not print tool calls.*\n.*on_bad_row: skip"):
        run_sft(config, tmp_path / "plain", tmp_path / "a")
    heard = Heard()
    changed = config.model_copy(update={"on_bad_row": "skip", "on_unprinted": "drop"})
    result = run_sft(changed, tmp_path / "plain", tmp_path / "b", progress=heard)
    assert [result.metrics[name] for name in ("rows", "rows_not_encodable", "rows_unprinted")] == [18, 1, 1]
    assert heard.lines[0].endswith(f"; set aside: 1, in {config.data}.rejects.jsonl")
    (aside,) = map(json.loads, (tmp_path / "rows.jsonl.rejects.jsonl").read_text().splitlines())
    assert (aside["position"], aside["row"]) == (20, broken)


def test_data_without_a_card_or_consent_does_not_train(tmp_path, model):
    config = configure(tmp_path)
    card = tmp_path / "rows.jsonl.card.yaml"
    card.write_text(CARD.replace("made data", "unknown"))
    with pytest.raises(CheckFailed, match="its card gives no consent"):
        run_sft(config, model, tmp_path / "out")
    card.unlink()
    with pytest.raises(CheckFailed, match="has no data card"):
        run_sft(config, model, tmp_path / "out")


def test_a_run_begun_under_another_contract_is_refused_with_the_first_difference(tmp_path, model):
    config = configure(tmp_path)
    run_sft(config, model, tmp_path / "out")
    changed = shutil.copytree(model, tmp_path / "changed")
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_end|>", 1))
    with pytest.raises(ContractError, match="was made under another chat contract"):
        run_sft(config, changed, tmp_path / "out")


def _with(config, folder, rows):
    write_data(folder, rows)
    return config


def test_a_folder_that_no_run_has_written_is_never_replaced(tmp_path, model):
    shutil.copytree(model, tmp_path / "model")
    with pytest.raises(ConfigError, match=r"/model is there, but no run in .* has written it"):
        run_sft(configure(tmp_path), tmp_path / "model", tmp_path)
    assert (tmp_path / "model" / "tokenizer.json").is_file()


@pytest.mark.parametrize("content", ['{"sche', "[]"])
def test_a_contract_record_that_is_damaged_is_named(tmp_path, model, content):
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "contract.json").write_text(content)
    with pytest.raises(ContractError, match=r"broken/contract\.json: .*no contract record"):
        run_sft(configure(tmp_path), broken, tmp_path / "out")
