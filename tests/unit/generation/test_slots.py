"""Extents of the cache: found by content, never on top of each other, least recently used goes first."""

import itertools

import numpy as np
import pytest

from posttrain.generation.slots import MIN_SHARED, UNIT, Slots, families, num_common, progressions


def ids(*values):
    return np.array(values, np.int32)


def finish(slots, extent, tokens=None):
    tokens = extent.tokens if tokens is None else tokens
    extent.computed = len(tokens)
    slots.release(extent, tokens)


def test_an_extent_is_a_power_of_two_of_units_at_a_multiple_of_its_size():
    slots = Slots(16 * UNIT, 9)
    small, large = slots.place(ids(1), UNIT + 1), slots.place(ids(2), 3 * UNIT)
    assert (small.start, small.size) == (0, 2 * UNIT)
    assert (large.start, large.size) == (4 * UNIT, 4 * UNIT)


def test_the_longest_request_takes_everything_where_that_is_no_power_of_two():
    slots = Slots(12 * UNIT + 5, 9)
    assert slots.num_positions == 12 * UNIT
    assert slots.place(ids(1), 12 * UNIT).size == 12 * UNIT


def test_running_requests_are_never_displaced():
    slots = Slots(2 * UNIT, 9)
    assert slots.place(ids(1), UNIT)
    assert slots.place(ids(2), UNIT)
    assert slots.place(ids(3), UNIT) is None


def test_the_least_recently_used_goes_first():
    slots = Slots(2 * UNIT, 9)
    contents = [np.arange(10, dtype=np.int32) + 100 * i for i in range(2)]
    for content in contents:
        finish(slots, slots.place(content, UNIT))
    slots.touch(slots.match(contents[0])[0])
    slots.place(np.arange(500, 510, dtype=np.int32), UNIT)
    assert slots.match(contents[0])[1] == 10
    assert slots.match(contents[1]) == (None, 0)


def test_only_so_many_finished_requests_are_kept():
    slots = Slots(64 * UNIT, 2)
    contents = [np.arange(10, dtype=np.int32) + 100 * i for i in range(3)]
    for content in contents:
        finish(slots, slots.place(content, UNIT))
    assert [slots.match(content)[1] for content in contents] == [0, 10, 10]


def test_what_was_not_computed_is_not_held():
    slots = Slots(4 * UNIT, 4)
    content = np.arange(30, dtype=np.int32)
    extent = slots.place(content, 30)
    extent.computed = 12
    slots.release(extent, content)
    assert slots.match(content)[1] == 12


def test_the_longest_common_beginning_is_found_and_a_short_one_is_none():
    slots = Slots(16 * UNIT, 4)
    base = np.arange(40, dtype=np.int32)
    finish(slots, slots.place(base[:20], 40))
    longer = slots.place(base[:30], 40)
    assert slots.match(base) == (longer, 30)
    assert slots.match(base[: MIN_SHARED - 1]) == (None, 0)


@pytest.mark.parametrize("seed", range(3))
def test_extents_never_overlap_and_stay_inside(seed):
    rng = np.random.default_rng(seed)
    slots, running = Slots(37 * UNIT, 6), []
    placed = 0
    for _ in range(400):
        if running and rng.random() < 0.45:
            finish(slots, running.pop(rng.integers(len(running))))
            continue
        extent = slots.place(rng.integers(0, 9, rng.integers(1, 60)).astype(np.int32), int(rng.integers(1, 20 * UNIT)))
        if extent is not None:
            running.append(extent)
            placed += 1
        places = sorted((e.start, e.start + e.size) for e in slots._extents)
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(places))
        assert places[-1][1] <= slots.num_positions
        assert all(extent in slots._extents for extent in running)
    assert placed > 50


def test_common_beginnings_are_counted_to_the_first_difference():
    assert num_common(ids(1, 2, 3), ids(1, 2, 4, 5)) == 2
    assert num_common(ids(1, 2), ids(1, 2, 3)) == 2
    assert num_common(ids(), ids(1)) == 0


def test_rows_of_one_size_at_equal_distances_are_one_run():
    places = [(16, 0), (16, 16), (16, 32), (16, 64), (16, 96), (32, 128), (32, 192)]
    runs = progressions(places)
    assert runs == [(3, 16), (2, 32), (2, 64)]
    assert sum(number for number, _ in runs) == len(places)


def test_families_are_where_reading_a_beginning_once_saves_most():
    report, other = list(range(200)), list(range(1000, 1100))
    sequences = [[*report, 1], [*other, 7], [*report, 2, 3], [5, 6], [*report[:100], 9], [*other, 8], [*report, 2, 4]]
    found = {tuple(sorted(members)): shared for members, shared in families(sequences)}
    assert found == {(0, 2, 6): 200, (4,): 0, (1, 5): 100, (3,): 0}, "(3 - 1) x 200 tokens are more than (4 - 1) x 100"
