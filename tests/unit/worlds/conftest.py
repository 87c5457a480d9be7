"""Tasks of each split, made once a test process."""

import functools

import pytest

from posttrain.worlds import worlds

COUNT = 160


@functools.cache
def made(split):
    return tuple(worlds.get("finops").tasks(split, seed=3, count=COUNT))


@pytest.fixture
def tasks_of():
    """Split to its first 160 tasks under seed 3."""
    return made
