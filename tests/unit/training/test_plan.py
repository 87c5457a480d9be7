import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.models import build_forest
from posttrain.records import TokenSequence
from posttrain.training import TrainingItem, TrainingSettings, build_plan
from posttrain.training.plan import common_prefix, prefix_groups, split_microbatches


def sequence(*parts, index=-1):
    ids = np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])
    return TokenSequence(ids, np.ones(len(ids), dtype=bool), index)


def item(*parts):
    return TrainingItem((sequence(*parts),))


def random_items(count, *, seed=0, prefixes=5):
    """Items that begin with one of a few long prefixes, as questions about documents do."""
    draw = np.random.default_rng(seed)
    beginnings = [draw.integers(1, 50, draw.integers(20, 60)) for _ in range(prefixes)]
    return [item(beginnings[draw.integers(prefixes)], draw.integers(1, 50, draw.integers(1, 40))) for _ in range(count)]


def settings(**changes):
    return TrainingSettings(**{"learning_rate": 1e-3, **changes})


@pytest.mark.parametrize("group", [False, True])
def test_every_item_comes_once_an_epoch(group):
    plan = build_plan(random_items(53), settings(epochs=3, sequences_per_step=8, group_shared_prefixes=group))
    seen = [position for step in plan.steps for position in step]
    assert sorted(seen) == sorted(list(range(53)) * 3)
    assert [len(step) for step in plan.steps] == [8] * 19 + [7]  # 3 * 53 = 159 = 19 * 8 + 7


def test_the_plan_is_a_pure_function_of_data_seed_and_settings():
    items = random_items(40)
    same, again = (build_plan(items, settings(seed=3, sequences_per_step=4)) for _ in range(2))
    other = build_plan(items, settings(seed=4, sequences_per_step=4))
    assert same == again
    assert same.hash != other.hash
    assert sorted(p for step in other.steps for p in step) == list(range(40))


def test_items_that_all_begin_alike_and_fit_into_one_step_meet_in_other_batches_every_time():
    items = [item(range(1, 41), [50 + number] * 4) for number in range(10)]
    plan = build_plan(items, settings(max_steps=40, sequences_per_step=16))
    # with a fixed order batches come back after five steps (5 * 16 = 8 * 10); of 210 ways to choose the six that come twice, most differ
    assert len({tuple(sorted(step)) for step in plan.steps}) > 20
    seen = [position for step in plan.steps for position in step]
    assert [seen.count(position) for position in range(10)] == [64] * 10  # 640 places


def test_epochs_are_shuffled_differently():
    plan = build_plan(random_items(16), settings(epochs=2, sequences_per_step=16, group_shared_prefixes=False))
    assert sorted(plan.steps[0]) == sorted(plan.steps[1])
    assert plan.steps[0] != plan.steps[1]


def test_a_fraction_of_an_epoch_and_a_number_of_steps_are_kept():
    items = random_items(10)
    assert sum(map(len, build_plan(items, settings(epochs=0.5, sequences_per_step=2)).steps)) == 5
    assert [len(step) for step in build_plan(items, settings(max_steps=7, sequences_per_step=4)).steps] == [4] * 7


def test_no_items_is_refused():
    with pytest.raises(ConfigError, match="0 items"):
        build_plan([], settings())


def test_questions_about_one_document_meet_in_one_step_under_a_common_system_prompt():
    draw = np.random.default_rng(1)
    system = draw.integers(1, 50, 40)
    documents = [draw.integers(1, 50, 100) for _ in range(12)]
    items = [item(system, document, draw.integers(1, 50, 10)) for document in documents for _ in range(4)]
    order = draw.permutation(len(items))
    plan = build_plan([items[i] for i in order], settings(epochs=1, sequences_per_step=8))
    met = [[order[position] // 4 for position in step] for step in plan.steps]
    assert [len(set(step)) for step in met] == [2] * 6  # two whole documents of four questions
    first = [step[0] for step in met]
    assert first != sorted(first), "documents are shuffled"


def test_a_system_prompt_alone_groups_nothing():
    draw = np.random.default_rng(2)
    system = draw.integers(1, 50, 200)
    items = [item(system, [token], draw.integers(1, 50, 30)) for token in range(1, 41)]
    assert sorted(prefix_groups(items, cap=8, min_shared=16)) == [[position] for position in range(40)]


def test_a_group_that_fits_no_step_is_split_and_nothing_is_lost():
    draw = np.random.default_rng(3)
    document = draw.integers(1, 50, 100)
    items = [item(document, draw.integers(1, 50, 5)) for _ in range(5)] + [item(draw.integers(1, 50, 50)) for _ in range(2)]
    plan = build_plan(items, settings(epochs=2, sequences_per_step=6))
    assert [len(step) for step in plan.steps] == [6, 6, 2]
    assert sorted(p for step in plan.steps for p in step) == sorted([*range(7)] * 2)


def test_common_prefix_counts_equal_tokens_at_the_start():
    a, b = np.array([1, 2, 3, 4], dtype=np.int32), np.array([1, 2, 9], dtype=np.int32)
    assert common_prefix(a, b) == 2
    assert common_prefix(a, a[:3]) == 3
    assert common_prefix(b[2:], a) == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [False, True])
def test_microbatches_stay_within_the_limit_in_packed_tokens(seed, share):
    items = random_items(60, seed=seed)
    batches = split_microbatches(items, max_tokens=200, share=share, min_shared=16)
    assert sorted(position for batch in batches for position in batch) == list(range(60))
    sizes = [build_forest([items[p].sequences[0] for p in batch], share=share, min_shared=16).input_ids.numel() for batch in batches]
    assert max(sizes) <= 200
    total = sum(items[p].num_tokens for p in range(60))
    assert share or sum(sizes) == total
    assert not share or sum(sizes) < total / 1.5, "sharing saves what the prefixes hold in common"


def test_an_item_over_the_limit_runs_alone():
    items = [item(range(1, 31)), item(range(100, 110)), item(range(200, 205))]
    batches = split_microbatches(items, max_tokens=15, share=True, min_shared=16)
    assert batches == [(0,), (1, 2)]


def test_the_sequences_of_an_item_are_never_separated_and_share_their_prompt():
    draw = np.random.default_rng(4)
    prompts = [draw.integers(1, 50, 40) for _ in range(6)]
    pairs = [TrainingItem((sequence(p, draw.integers(1, 50, 10)), sequence(p, draw.integers(1, 50, 12)))) for p in prompts]
    # a pair has 40 + 40 + 10 + 12 = 102 tokens, of which at least 40 - 15 = 25 are shared
    batches = split_microbatches(pairs, max_tokens=160, share=True, min_shared=16)
    assert [len(batch) for batch in batches] == [2, 2, 2]


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_every_worker_gets_a_microbatch_where_there_are_items_enough(workers):
    items = random_items(9)
    assert len(split_microbatches(items, max_tokens=10_000, share=True, min_shared=16, at_least=workers)) >= workers
    assert len(split_microbatches(items[:1], max_tokens=10_000, share=True, min_shared=16, at_least=workers)) == 1
