"""What the drills accuse can be taught: pairs of right against legal but wrong calls go through the preference stage."""

import json

from posttrain.chat import template_text
from posttrain.data import card_path, read_records, write_jsonl
from posttrain.drills.yes_no import run_stage
from posttrain.models import with_chat_template, write_tiny_model
from posttrain.worlds import worlds, write_tasks


def test_dpo_on_right_against_wrong_calls_moves_the_margin(tmp_path):
    tasks = worlds.get("finops").tasks("train", seed=3, count=1, only=("entry",))
    write_tasks(tasks, tmp_path / "all.jsonl", "pairs")
    pairs = [pair for pair in read_records(tmp_path / "all.jsonl") if pair.rejected[0].tool_calls]  # call against call, both valid
    assert {"wrong_account", "wrong_side"} <= {pair.metadata["counterexample"] for pair in pairs}
    assert all(pair.chosen[0].tool_calls[0].name == pair.rejected[0].tool_calls[0].name for pair in pairs)
    write_jsonl(pairs, tmp_path / "pairs.jsonl")
    card_path(tmp_path / "pairs.jsonl").write_text(card_path(tmp_path / "all.jsonl").read_text())
    template = template_text("chatml-tools")
    texts = [template, *(json.dumps(tool) for tool in tasks[0].tools), *(message.content for message in tasks[0].messages)]
    base = write_tiny_model(tmp_path / "base", texts, seed=1, vocab_size=1000, hidden=32)
    start = with_chat_template(base, template, tmp_path / "start")
    training = {"learning_rate": 1e-2, "max_steps": 12, "sequences_per_step": 2 * len(pairs), "seed": 2, "checkpoint_every_steps": 1000}
    settings = {
        "data": str(tmp_path / "pairs.jsonl"),
        "objective": {"name": "dpo", "beta": 0.1},
        "watch": {"samples": 0, "pairs": 0},
        "training": training,
    }
    run_stage("preference", tmp_path, start, settings)
    history = json.loads((tmp_path / "run" / "result.json").read_text())["history"]
    first, last = (history[place]["metrics"] for place in (0, -1))
    assert abs(first["rewards/margin"]) < 1e-5, "policy and reference are the same model before the first update, computed in other packs"
    assert last["rewards/margin"] > 0.1
    assert last["rewards/accuracy"] == 1.0
    assert last["logps/chosen_change"] > 0 > last["logps/rejected_change"]
