import json
import resource
import shutil
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from tiny_run import build_model, build_policy, build_sequences, digest, loss_fn, settings_for

from posttrain.config import file_hash
from posttrain.errors import ConfigError, ContractError, InfrastructureError
from posttrain.models import LoraSettings, ModelSettings, Policy
from posttrain.models.lora import add_adapter
from posttrain.records import TokenSequence
from posttrain.training import train


def start(out, *, policy=None, data=None, contract="chat:test", on_step=None, **changes):
    return train(
        policy or build_policy(),
        build_sequences() if data is None else data,
        loss_fn,
        settings_for(**changes),
        run_dir=out,
        contract_record={"hash": contract},
        on_step=on_step,
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of 12 steps with its last three checkpoints."""
    out = tmp_path_factory.mktemp("original")
    start(out, keep_checkpoints=3)
    return out


@pytest.fixture
def finished(tmp_path, original):
    """A copy of it."""
    return shutil.copytree(original, tmp_path / "run")


def names(out):
    return sorted(folder.name for folder in (out / "checkpoints").iterdir())


def test_the_newest_checkpoints_are_kept(finished):
    assert names(finished) == ["step-00000010", "step-00000011", "step-00000012"]


def test_a_copy_of_a_checkpoint_beside_it_is_no_checkpoint(finished):
    whole = digest(finished)
    shutil.copytree(finished / "checkpoints" / "step-00000011", finished / "checkpoints" / "step-00000011 copy")
    shutil.rmtree(finished / "checkpoints" / "step-00000012")
    start(finished, keep_checkpoints=3)
    assert digest(finished) == whole
    assert "step-00000011 copy" in names(finished)


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json", "hashes.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(finished, file, damage):
    whole = digest(finished)
    path = finished / "checkpoints" / "step-00000012" / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.warns(RuntimeWarning, match="step-00000012 is damaged"):
        result = start(finished, keep_checkpoints=3)
    assert result.resumed_from == 11
    assert digest(finished) == whole


def test_when_every_checkpoint_is_damaged_the_run_starts_afresh(finished):
    whole = digest(finished)
    for name in names(finished):
        (finished / "checkpoints" / name / "weights.safetensors").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="is damaged") as caught:
        assert start(finished, keep_checkpoints=3).resumed_from == 0
    assert len(caught) == 3
    assert digest(finished) == whole


def test_what_a_killed_writer_left_behind_is_removed(finished):
    leftover = finished / "checkpoints" / ".step-00000013.abc"
    leftover.mkdir()
    (leftover / "weights.safetensors").write_bytes(b"half")
    start(finished, keep_checkpoints=3)
    assert names(finished) == ["step-00000010", "step-00000011", "step-00000012"]


def test_another_contract_is_refused_naming_both(finished):
    with pytest.raises(ContractError, match=r"another chat contract: hash: was chat:test, now chat:other"):
        start(finished, contract="chat:other")


def test_other_settings_are_refused_naming_them(finished):
    with pytest.raises(ConfigError, match=r"other settings: learning_rate: was 0.01, now 0.02; seed: was 17, now 3"):
        start(finished, learning_rate=0.02, seed=3)


def test_other_data_is_refused(finished):
    rows = build_sequences()
    changed = rows[5].input_ids.copy()
    changed[-1] = 1 + changed[-1] % 60
    rows[5] = TokenSequence(changed, rows[5].completion_mask, rows[5].index)
    with pytest.raises(ConfigError, match="a run with other data: content: was"):
        start(finished, data=rows)


def test_another_start_model_is_refused(finished):
    torch.manual_seed(1)
    model = build_model()
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    with pytest.raises(ConfigError, match="a run with other model: start_weights: was"):
        start(finished, policy=Policy(model, ModelSettings(path="unused"), compute_dtype=torch.float32))


def test_a_start_model_that_differs_in_one_weight_is_another(finished):
    model = build_model()
    embedding = model.model.embed_tokens.weight.detach().reshape(-1)
    embedding[len(embedding) // 2 + 1] += 1.0
    with pytest.raises(ConfigError, match="a run with other model: start_weights: was all:"):
        start(finished, policy=Policy(model, ModelSettings(path="unused"), compute_dtype=torch.float32))


def test_a_checkpoint_that_knows_a_part_of_its_start_model_says_so(finished):
    for folder in (finished / "checkpoints").iterdir():
        state = json.loads((folder / "state.json").read_text())
        state["identity"]["model"]["start_weights"] = "0" * 64
        (folder / "state.json").write_text(json.dumps(state))
        hashes = json.loads((folder / "hashes.json").read_text()) | {"state.json": file_hash(folder / "state.json")}
        (folder / "hashes.json").write_text(json.dumps(hashes))
    with pytest.raises(ConfigError, match="written by an earlier version, which compared a part of the start model's weights"):
        start(finished)


def test_other_means_of_computing_are_told(finished):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with pytest.warns(RuntimeWarning, match=rf"step-00000012 was computed by other means \(threads: was {before}, now {before + 1}\)"):
            result = start(finished)
    finally:
        torch.set_num_threads(before)
    assert result.resumed_from == 12


def test_settings_that_only_decide_memory_and_disk_may_change(finished):
    result = start(finished, keep_checkpoints=1, checkpoint_every_steps=7, max_tokens_per_microbatch=60)
    assert result.resumed_from == 12


def test_the_history_survives_a_resume(finished):
    state = json.loads((finished / "checkpoints" / "step-00000012" / "state.json").read_text())
    assert [entry["step"] for entry in state["history"]] == list(range(1, 13))


@contextmanager
def no_space():
    """The kernel refuses to let any file of this process grow beyond 8 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_space_left_says_so_loses_nothing_and_the_run_goes_on_later(tmp_path):
    start(tmp_path / "straight", keep_checkpoints=1)

    def fill_disk_after_step_five(report):
        if report.step == 5:
            full.enter_context(no_space())

    with ExitStack() as full, pytest.raises(InfrastructureError, match=r"no space left while writing .*step-00000006") as caught:
        start(tmp_path / "full", keep_checkpoints=1, on_step=fill_disk_after_step_five)
    assert "free some space" in caught.value.hint
    assert names(tmp_path / "full") == ["step-00000005"]
    assert start(tmp_path / "full", keep_checkpoints=1).resumed_from == 5
    assert digest(tmp_path / "full") == digest(tmp_path / "straight")


def test_another_mask_is_other_data(finished):
    rows = build_sequences()
    mask = rows[0].completion_mask.copy()
    mask[-1] = False
    rows[0] = TokenSequence(np.array(rows[0].input_ids), mask, rows[0].index)
    with pytest.raises(ConfigError, match="other data"):
        start(finished, data=rows)


@pytest.mark.parametrize("change", [{"alpha": 64.0}, {"dropout": 0.1}])
def test_a_checkpoint_of_an_adapter_with_another_scale_is_refused(tmp_path, change):
    def policy(**changes):
        lora = LoraSettings(rank=2, **{"alpha": 4.0, **changes})
        return Policy(add_adapter(build_model(), lora, seed=0), ModelSettings(path="-", lora=lora), compute_dtype=torch.float32)

    start(tmp_path, policy=policy(), share_prefixes=False)
    start(tmp_path, policy=policy(), share_prefixes=False)
    with pytest.raises(ConfigError, match="adapters"):
        start(tmp_path, policy=policy(**change), share_prefixes=False)


def test_a_checkpoint_of_the_same_weights_under_another_configuration_is_refused(tmp_path):
    start(tmp_path)
    policy = build_policy()
    policy.model.config.rope_parameters = {**policy.model.config.rope_parameters, "rope_theta": 50.0}
    with pytest.raises(ConfigError, match="architecture"):
        start(tmp_path, policy=policy)
