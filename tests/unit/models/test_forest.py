import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.errors import DataError
from posttrain.models import build_forest
from posttrain.records import TokenSequence


def sequence(ids, begin=0, index=-1):
    return TokenSequence(np.array(ids, dtype=np.int32), np.arange(len(ids)) >= begin, index)


def test_a_prompt_with_two_answers_is_kept_once():
    prompt = list(range(10, 30))
    forest = build_forest([sequence([*prompt, 3, 4], 20), sequence([*prompt, 5], 20)], min_shared=16)
    assert forest.nodes.tolist() == [[0, 20, -1, 23], [20, 22, 0, 22], [22, 23, 0, 23]]
    assert forest.input_ids.tolist() == [*prompt, 3, 4, 5]
    assert forest.position_ids.tolist() == [*range(20), 20, 21, 20]
    # both answers' first tokens are predicted by the prompt's last row, 19
    assert forest.logit_rows.tolist() == [19, 20, 19]
    assert forest.target_ids.tolist() == [3, 4, 5]
    assert forest.sequence_ids.tolist() == [0, 0, 1]
    assert (forest.num_sequences, forest.num_logical_tokens, forest.is_shared) == (2, 43, True)


def test_fewer_than_min_shared_tokens_stay_apart():
    left, right = [*range(10, 25), 1], [*range(10, 25), 2]
    assert not build_forest([sequence(left), sequence(right)], min_shared=16).is_shared
    assert build_forest([sequence(left), sequence(right)], min_shared=15).is_shared


def test_an_unshared_pack_keeps_the_order_given():
    forest = build_forest([sequence([9, 8, 7]), sequence([9, 8]), sequence([1])], share=False)
    assert forest.input_ids.tolist() == [9, 8, 7, 9, 8, 1]
    assert forest.nodes.tolist() == [[0, 3, -1, 3], [3, 5, -1, 5], [5, 6, -1, 6]]


def test_token_zero_is_no_target():
    forest = build_forest([sequence([4, 5])])
    assert forest.target_ids.tolist() == [5]


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_nothing_to_pack_is_refused(rows):
    with pytest.raises(DataError, match="pack"):
        build_forest([sequence(row, index=number) for number, row in enumerate(rows)])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8),
    st.integers(1, 4),
    st.booleans(),
)
def test_every_sequence_can_be_read_back_and_nodes_nest(rows, min_shared, share):
    forest = build_forest([sequence(row) for row in rows], share=share, min_shared=min_shared)
    paths = list(forest.paths())
    assert [forest.input_ids[path].tolist() for path in paths] == rows
    assert all(forest.position_ids[path].tolist() == list(range(len(path))) for path in paths)
    nodes = forest.nodes.tolist()
    assert [node[0] for node in nodes] == [0, *(node[1] for node in nodes[:-1])]  # the row is covered once, in order
    for start, end, parent, subtree_end in nodes:
        assert start < end <= subtree_end
        if parent >= 0:
            assert nodes[parent][1] <= start
            assert subtree_end <= nodes[parent][3]
    targets = [row[1:] for row in rows]
    assert forest.target_ids.tolist() == [token for row in targets for token in row]
    predictors = [path[:-1].tolist() for path in paths]
    assert forest.logit_rows.tolist() == [row for path in predictors for row in path]
    if min_shared == 1 and share:  # a full trie holds every distinct prefix exactly once
        assert len(forest.input_ids) == len({tuple(row[: end + 1]) for row in rows for end in range(len(row))})


def test_moving_keeps_the_structure_on_the_cpu():
    forest = build_forest([sequence([1, 2, 3])]).to("meta")
    assert forest.input_ids.device == torch.device("meta")
    assert forest.nodes.device == torch.device("cpu")
