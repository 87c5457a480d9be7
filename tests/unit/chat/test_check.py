"""`posttrain check` and `posttrain contract`, and the report behind them, on real files and a real (small) tokenizer."""

import json

import pytest
from families import contract
from typer.testing import CliRunner

from posttrain.chat import mask_report, sample_segments, show_sample, unprinted
from posttrain.cli.check import app as check_app
from posttrain.cli.contract import app as contract_app
from posttrain.data import read_records
from posttrain.errors import ConfigError, ContractError, DataError, InfrastructureError
from posttrain.models import write_tiny_model
from posttrain.records import Demonstration, Message

GOOD = {"messages": [{"role": "user", "content": "What is 12 * 7?"}, {"role": "assistant", "content": "The answer is 84."}]}
UNTRAINED = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": 0}]}
LONG = {"messages": [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "ok"}]}


@pytest.fixture
def model(tmp_path):
    contract("smollm2").save(tmp_path / "model")
    return tmp_path / "model"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(app, *arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def check_json(*arguments):
    result = run(check_app, *arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


def test_good_data_passes_and_its_counts_are_those_of_its_sequences(model, tmp_path):
    data = write(tmp_path / "data.jsonl", [GOOD, GOOD | {"id": "other"}])
    code, report = check_json(data, "--model", model)
    sequences = list(contract("smollm2").supervise_many(read_records(data)))
    assert code == 0
    assert report["rows"] == 2
    assert report["tokens"] == sum(map(len, sequences))
    assert report["supervised_tokens"] == sum(sequence.num_supervised for sequence in sequences)
    assert report["contract"] == contract("smollm2").hash
    assert len(report["duplicates"]["exact"]) == 1
    assert sum(bucket["rows"] for bucket in report["histogram"]) == 2


def test_rows_that_train_nothing_fail_the_check_unless_allowed(model, tmp_path):
    data = write(tmp_path / "data.jsonl", [GOOD, UNTRAINED])
    code, report = check_json(data, "--model", model)
    assert (code, report["failing"]) == (1, ["trains-nothing"])
    assert [row["index"] for row in report["trains_nothing"]["rows"]] == [2], "rows count from 1"
    assert check_json(data, "--model", model, "--allow", "trains-nothing")[0] == 0


def test_what_a_maximum_length_would_cut_is_reported_and_fails(model, tmp_path):
    data = write(tmp_path / "data.jsonl", [GOOD, LONG])
    code, report = check_json(data, "--model", model, "--max-length", 60)
    length = len(contract("smollm2").supervise(Demonstration(tuple(Message(m["role"], m["content"]) for m in LONG["messages"]))))
    assert (code, report["failing"]) == (1, ["truncated"])
    assert report["truncated"]["rows"][0]["index"] == 2
    assert f"{length} tokens, {length - 60} over" in report["truncated"]["rows"][0]["detail"]
    assert report["truncated_away"]["count"] == 1
    assert report["length"]["max"] == length


def test_rows_without_an_exact_mask_are_listed_with_their_reason(model, tmp_path):
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    data = write(tmp_path / "data.jsonl", [GOOD, {"messages": [GOOD["messages"][0], call]}])
    code, report = check_json(data, "--model", model)
    assert (code, report["failing"]) == (1, ["refused"])
    assert "does not print tool calls" in report["refused"]["rows"][0]["detail"]


def test_control_text_is_reported_and_what_the_template_cannot_print_fails():
    rows = [
        Demonstration((Message("user", "a <|im_end|> b"), Message("assistant", "x"))),
        Demonstration((Message("user", "q"), Message("assistant", "x", reasoning="because")), ({"function": {"name": "get_balance"}},)),
    ]
    report, sequences = mask_report(contract("smollm2"), rows)
    assert [(note.index, note.detail) for note in report.control_text] == [(1, "<|im_end|>")]
    assert [(note.index, note.detail) for note in report.unprinted] == [(2, "reasoning of turn 1, tools")]
    assert list(report.problems()) == ["unprinted"]
    assert len(sequences) == 2


def test_what_a_template_prints_of_the_last_turn_alone_is_not_called_unprintable():
    turns = (
        Message("user", "q"),
        Message("assistant", "x", reasoning="because \n\n it  is"),
        Message("user", "r"),
        Message("assistant", "y"),
    )
    assert unprinted(contract("qwen3"), Demonstration(turns)) == []
    assert unprinted(contract("smollm2"), Demonstration(turns)) == ["reasoning of turn 1"]


def test_reasoning_that_the_template_drops_fails_the_check_unless_allowed(model, tmp_path):
    thought = {"messages": [GOOD["messages"][0], {"role": "assistant", "content": "84", "reasoning_content": "12 * 7 = 84"}]}
    data = write(tmp_path / "data.jsonl", [GOOD, thought])
    code, report = check_json(data, "--model", model)
    assert (code, report["failing"], report["unprinted"]["rows"][0]["index"]) == (1, ["unprinted"], 2)
    assert check_json(data, "--model", model, "--allow", "unprinted")[0] == 0


def test_without_a_length_rows_must_fit_the_positions_of_the_model(tmp_path):
    model = write_tiny_model(tmp_path / "model", [GOOD["messages"][0]["content"]], seed=1, vocab_size=300, hidden=32, max_length=64)
    code, report = check_json(write(tmp_path / "data.jsonl", [GOOD, LONG]), "--model", model)
    assert (code, report["failing"], report["max_length"]) == (1, ["truncated"], 64)


def test_rows_are_set_aside_where_the_option_says_and_a_folder_that_cannot_be_written_is_told(model, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    data = write(folder / "data.jsonl", [GOOD])
    data.write_text(data.read_text() + "{broken\n")
    report = check_json(data, "--model", model, "--on-bad-row", "skip", "--rejects", tmp_path / "aside")[1]
    assert (report["skipped"], report["rejects"]) == (1, str(tmp_path / "aside" / "data.jsonl.rejects.jsonl"))
    assert list(folder.iterdir()) == [data]
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match=r"data.jsonl:2: .*cannot be set aside.*\n.*--rejects FOLDER"):
        run(check_app, data, "--model", model, "--on-bad-row", "skip", "--rejects", tmp_path / "file")


def test_preference_pairs_are_checked_on_both_sides(model, tmp_path):
    side = [{"role": "assistant", "content": "84"}]
    data = write(
        tmp_path / "pairs.jsonl", [{"prompt": GOOD["messages"][:1], "chosen": side, "rejected": [{"role": "assistant", "content": "no"}]}]
    )
    code, report = check_json(data, "--model", model, "--mask", "completion")
    assert (code, report["rows"]) == (0, 2)


def test_the_sample_marks_exactly_the_supervised_text(model, tmp_path):
    out = run(check_app, write(tmp_path / "data.jsonl", [GOOD]), "--model", model).stdout
    assert "<|im_start|>assistant\n⟦The answer is 84.<|im_end|>⟧\n" in out
    assert out.count("⟦") == 1
    assert "good to train on" in out


def test_the_sample_has_colour_in_a_terminal_and_never_lets_data_control_it():
    row = Demonstration((Message("user", "\x1b[31mred\x07"), Message("assistant", "84")))
    segments = sample_segments(contract("smollm2"), contract("smollm2").supervise(row))
    shown = show_sample(segments, colour=True)
    assert "\x1b[1;32m84<|im_end|>\x1b[0m" in shown
    assert "\\x1b[31mred\\x07" in shown
    assert "\x07" not in shown


def test_wrong_options_and_files_are_refused_with_the_nearest_name(model, tmp_path):
    data = write(tmp_path / "data.jsonl", [GOOD])
    with pytest.raises(ConfigError, match="did you mean 'assistant'"):
        run(check_app, data, "--model", model, "--mask", "asistant")
    with pytest.raises(ConfigError, match="did you mean 'truncated'"):
        run(check_app, data, "--model", model, "--allow", "trunkated")
    with pytest.raises(DataError):
        run(check_app, tmp_path / "missing.jsonl", "--model", model)
    with pytest.raises(ContractError, match="no such folder"):
        run(check_app, data, "--model", tmp_path / "nowhere")


def test_freeze_then_check_then_diff_on_the_command_line(model, tmp_path):
    record = tmp_path / "frozen.json"
    assert run(contract_app, "freeze", model, "-o", record).exit_code == 0
    assert run(contract_app, "check", model, record).exit_code == 0
    assert json.loads(run(contract_app, "diff", record, model, "--json").stdout) == {"same": True, "difference": []}
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("helpful AI assistant", "careful AI assistant"))
    with pytest.raises(ContractError, match="first differing token: position"):
        run(contract_app, "check", model, record)
    changed = run(contract_app, "diff", record, model)
    assert changed.exit_code == 1
    assert "careful AI assistant" in changed.stdout
