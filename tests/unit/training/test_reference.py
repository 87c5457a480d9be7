"""Reference log-probabilities: computed once, the same bytes after a kill, refused for another model or other data."""

import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_run import RECORD, build_policy, build_sequences

from posttrain.errors import ConfigError
from posttrain.models import LoraSettings, build_forest
from posttrain.training.reference import HEADER_FILE, VALUES_FILE, reference_logprobs, starting_policy

CONTRACT = RECORD["hash"]
LORA = LoraSettings(rank=4)


def alone(policy, sequence):
    """log p of one sequence, unpacked."""
    with torch.no_grad():
        return policy.logprobs(build_forest([sequence], share=False))


def nudge(policy):
    """An update of every trainable weight."""
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    policy.refresh()


def test_every_sequence_gets_its_own_tokens_logprobs_and_their_sum(tmp_path):
    policy, sequences = build_policy(), build_sequences()
    found = reference_logprobs(policy, sequences, tmp_path, contract=CONTRACT, max_tokens=100)
    for position, sequence in enumerate(sequences):
        torch.testing.assert_close(found[position], alone(policy, sequence), rtol=1e-5, atol=1e-5)
    expected = torch.stack([alone(policy, sequence).sum() for sequence in sequences])
    torch.testing.assert_close(found.sums(), expected, rtol=1e-5, atol=1e-5)
    assert (tmp_path / VALUES_FILE).stat().st_size == 4 * sum(sequence.num_supervised for sequence in sequences)


def test_a_finished_pass_is_read_and_not_computed_again(tmp_path, monkeypatch):
    policy, sequences = build_policy(), build_sequences()
    first = reference_logprobs(policy, sequences, tmp_path, contract=CONTRACT)
    monkeypatch.setattr(policy, "logprobs", lambda *_: pytest.fail("the reference was computed again"))
    again = reference_logprobs(policy, sequences, tmp_path, contract=CONTRACT)
    assert torch.equal(first.sums(), again.sums())


def test_with_a_fresh_adapter_the_reference_is_the_base_and_its_cache_is_that_of_full_training(tmp_path):
    full, adapted, sequences = build_policy(), build_policy(lora=LORA), build_sequences()
    nudge(adapted)
    found = reference_logprobs(adapted, sequences, tmp_path, contract=CONTRACT)
    torch.testing.assert_close(found[0], alone(full, sequences[0]), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[0], alone(adapted, sequences[0]), atol=1e-3)
    reference_logprobs(full, sequences, tmp_path, contract=CONTRACT)  # accepted: the same weights
    with starting_policy(adapted, seed=1) as start:
        torch.testing.assert_close(alone(start, sequences[0]), found[0], rtol=1e-5, atol=1e-5)


def changed_mask(sequence):
    return replace(sequence, completion_mask=np.arange(len(sequence)) >= len(sequence) - 2)


@pytest.mark.parametrize("part", ["model", "architecture", "contract", "data", "mask"])
def test_a_cache_of_another_run_is_refused_and_says_what_differs(tmp_path, part):
    policy, sequences = build_policy(), build_sequences()
    reference_logprobs(policy, sequences, tmp_path, contract=CONTRACT)
    before = (tmp_path / VALUES_FILE).read_bytes()
    if part == "model":  # one weight of one tensor, by the smallest step
        weight = next(iter(policy.trainable().values()))
        with torch.no_grad():
            weight[-1, -1] = float(np.nextafter(np.float32(weight[-1, -1]), np.float32(9)))
    if part == "architecture":  # the same weights computed with otherwise
        policy.model.config.rms_norm_eps = 0.1
    if part == "data":
        sequences = sequences[::-1]
    if part == "mask":
        sequences = [changed_mask(sequences[0]), *sequences[1:]]
    with pytest.raises(ConfigError, match="data" if part == "mask" else part) as caught:
        reference_logprobs(policy, sequences, tmp_path, contract="chat:other" if part == "contract" else CONTRACT)
    assert "name another folder" in caught.value.hint
    assert (tmp_path / VALUES_FILE).read_bytes() == before


def test_a_pass_killed_again_and_again_ends_in_the_same_bytes(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sequences = build_sequences(documents=40, questions=2)
    reference_logprobs(build_policy(), sequences, tmp_path / "straight", contract=CONTRACT, max_tokens=50)
    file, cuts = tmp_path / "killed" / VALUES_FILE, []
    for kill in (True, True, True, False):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                policy = build_policy()
                slow = policy.logprobs
                policy.logprobs = lambda forest: (time.sleep(0.01 * kill), slow(forest))[1]
                reference_logprobs(policy, sequences, tmp_path / "killed", contract=CONTRACT, max_tokens=50)
                status = 0
            finally:
                os._exit(status)
        if kill:
            held, until = cuts[-1] if cuts else 0, time.monotonic() + 20
            while (file.stat().st_size if file.is_file() else 0) < held + 400 and time.monotonic() < until:
                time.sleep(0.001)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if kill else 0)
        cuts.append(file.stat().st_size)
        if kill:
            with open(file, "ab") as stream:  # half a pass, as a kill inside a write leaves it
                stream.write(b"\x01\x02\x03\x04\x05")
    torch.set_num_threads(threads)
    assert cuts == sorted(set(cuts)), "every attempt went on where the one before it was killed"
    assert file.read_bytes() == (tmp_path / "straight" / VALUES_FILE).read_bytes()
    headers = [json.loads((tmp_path / name / HEADER_FILE).read_text()) for name in ("straight", "killed")]
    assert headers[0] == headers[1]


def test_a_damaged_file_is_computed_again_with_a_warning(tmp_path):
    policy, sequences = build_policy(), build_sequences()
    reference_logprobs(policy, sequences, tmp_path, contract=CONTRACT)
    whole = (tmp_path / VALUES_FILE).read_bytes()
    (tmp_path / VALUES_FILE).write_bytes(b"\0" * len(whole))
    with pytest.warns(RuntimeWarning, match="damaged"):
        reference_logprobs(policy, sequences, tmp_path, contract=CONTRACT)
    assert (tmp_path / VALUES_FILE).read_bytes() == whole


def test_work_is_linear_in_tokens(tmp_path, monkeypatch):
    """Twice the documents: twice the tokens computed, whatever the number of passes."""
    computed = []
    policy = build_policy()
    count = policy.logprobs
    monkeypatch.setattr(policy, "logprobs", lambda forest: (computed.append(forest.input_ids.numel()), count(forest))[1])
    for documents in (4, 8):
        reference_logprobs(policy, build_sequences(documents=documents), tmp_path / str(documents), contract=CONTRACT, max_tokens=90)
        computed.append(0)
    split = computed.index(0)
    one, two = sum(computed[:split]), sum(computed[split:])
    assert two == pytest.approx(2 * one, rel=0.2)
