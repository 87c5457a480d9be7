"""Names and numbers of a world. A name belongs to one split, by a hash of its text, so splits share none, whatever the seed."""

import functools
import hashlib
import json
import random
from collections.abc import Callable
from importlib import resources

from posttrain.errors import DataError, suggest
from posttrain.worlds.base import SPLITS

TRIES = 4000


@functools.cache
def _words(kind: str, split: str = "") -> tuple[str, ...]:
    """The words that names are made of; of one split, where they must belong to it."""
    words = json.loads(resources.files(__package__).joinpath("names.json").read_text(encoding="utf-8"))[kind]
    return tuple(word for word in words if not split or split_of(word) == split)


def split_of(entity: str) -> str:
    """The one split an entity may appear in: train 3/5, validation 1/5, test 1/5 of all texts."""
    bucket = hashlib.sha256(entity.casefold().encode()).digest()[0] % 5
    return SPLITS[0] if bucket < 3 else SPLITS[bucket - 2]


def check_split(split: str) -> None:
    """Raise DataError for a split there is not."""
    if split not in SPLITS:
        raise DataError(f"unknown split '{split}'", hint=suggest(split, SPLITS))


class Names:
    """Draws entities of one split, none twice."""

    def __init__(self, split: str, rng: random.Random) -> None:
        check_split(split)
        self._split = split
        self._rng = rng
        self._taken: set[str] = set()

    def business(self) -> str:
        """A company, vendor or customer: 'Ashbrook Freight'. Its first word belongs to the split too."""
        return self._draw(lambda: f"{self._root()} {self._rng.choice(_words('business'))}")

    def sibling(self, name: str) -> str:
        """Another business with the same first word: what a careless reader confuses with ``name``."""
        root = name.split()[0]
        return self._draw(lambda: f"{root} {self._rng.choice(_words('business'))}")

    def person(self) -> str:
        """'Ada Ashbrook'; both words belong to the split."""
        return self._draw(lambda: f"{self._rng.choice(_words('first_names', self._split))} {self._root()}")

    def number(self, first: int, last: int, prefix: str = "") -> str:
        """An identifier: ``prefix`` and a number of [first, last]."""
        return self._draw(lambda: f"{prefix}{self._rng.randint(first, last)}", check=True)

    def bank_account(self) -> str:
        """A bank account of another party: '71-220934'."""
        return self._draw(lambda: f"{self._rng.randint(10, 99)}-{self._rng.randint(100000, 999999)}", check=True)

    def _root(self) -> str:
        while True:
            root = self._rng.choice(_words("front")) + self._rng.choice(_words("back"))
            if split_of(root) == self._split:
                return root

    def _draw(self, make: Callable[[], str], *, check: bool = False) -> str:
        for _ in range(TRIES):
            made = make()
            if made not in self._taken and not (check and split_of(made) != self._split):
                self._taken.add(made)
                return made
        raise DataError(
            f"no name of split '{self._split}' is left like '{made}' ({len(self._taken)} are taken)", hint="make the world smaller: size"
        )
