"""What a scorer says about one sample, and the three values logic that joins several of them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from posttrain.config import Config, Registry
from posttrain.evaluation.cases import Case
from posttrain.records import Generation

if TYPE_CHECKING:
    from posttrain.chat import ChatContract
    from posttrain.models import Policy

Status = Literal["scored", "unscored", "not_applicable"]
Kind = Literal["pass", "fraction", "amount"]


@dataclass(frozen=True, slots=True)
class Score:
    """One figure about one sample.

    ``status``: ``scored`` carries a finite value; ``unscored`` means the scorer could not tell (never zero, never dropped: it
    widens the bounds of the rate); ``not_applicable`` means the question does not arise for this sample.
    ``kind``: ``pass`` is 0 or 1, ``fraction`` lies in [0, 1], ``amount`` is any number (tokens, words).
    ``label`` is a class the scorer saw, such as the kind of answer; ``reason`` one short sentence for the reader.
    """

    name: str
    value: float | None
    status: Status = "scored"
    reason: str = ""
    kind: Kind = "pass"
    label: str = ""

    def __post_init__(self) -> None:
        if self.status == "scored" and (self.value is None or not math.isfinite(self.value)):
            object.__setattr__(self, "reason", f"the scorer gave {self.value}, which is no score")
            object.__setattr__(self, "status", "unscored")
            object.__setattr__(self, "value", None)


def passed(name: str, ok: bool, reason: str = "", label: str = "") -> Score:
    """A scored 1 or 0; ``reason`` says why not."""
    return Score(name, float(ok), reason="" if ok else reason, label=label)


def not_applicable(name: str, reason: str = "", kind: Kind = "pass", label: str = "") -> Score:
    """The question does not arise for this sample."""
    return Score(name, None, "not_applicable", reason, kind, label)


def unscored(name: str, reason: str, kind: Kind = "pass") -> Score:
    """The scorer could not tell."""
    return Score(name, None, "unscored", reason, kind)


def conjunction(values: Iterable[bool | None]) -> bool | None:
    """All true? False wins over None (unknown), None over True: an unknown part never makes a whole pass."""
    result: bool | None = True
    for value in values:
        if value is False:
            return False
        if value is None:
            result = None
    return result


Scorer = Callable[[Case, Generation], list[Score]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A case and its answer. ``token_ids`` are those generated; empty when the generator gave none."""

    case: Case
    text: str
    token_ids: tuple[int, ...]


@dataclass(slots=True)
class ScoringModels:
    """The models that scores of a suite need: the evaluated policy, the reference it moved from, reward models by role."""

    policy: Path | None
    """None where the answers come from a server: scores that need the model itself stay unscored."""
    adapter: Path | None = None
    reference: Path | None = None
    rewards: Mapping[str, Path] = field(default_factory=dict)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    _open: "tuple[ChatContract, Policy] | None" = field(default=None, repr=False)

    def open_policy(self) -> "tuple[ChatContract, Policy]":
        """The evaluated model with its chat contract, kept until :meth:`close_policy`."""
        from posttrain.chat import ChatContract
        from posttrain.models import ModelSettings, Policy

        if self._open is None:
            adapter = str(self.adapter) if self.adapter else None
            settings = ModelSettings(path=str(self.policy), adapter=adapter, dtype=self.dtype)
            self._open = ChatContract.load(str(self.policy)), Policy.load(settings, seed=0)
        return self._open

    def close_policy(self) -> None:
        """Let the evaluated model go, before another one is opened."""
        self._open = None

    def open_reference(self, contract: "ChatContract") -> "Policy":
        """The reference model. Raises ContractError when it does not read the same tokens as ``contract``'s model."""
        from posttrain.chat import ChatContract
        from posttrain.models import ModelSettings, Policy

        contract.check_same(ChatContract.load(str(self.reference)).record(), what=f"reference {self.reference}")
        return Policy.load(ModelSettings(path=str(self.reference), dtype=self.dtype), seed=0)


ModelScorer = Callable[[Sequence[Asked], ScoringModels], Iterator[list[Score]]]
"""All answers at once in, the scores of each in order out."""


@dataclass(frozen=True, slots=True)
class ScorerContext:
    """What a factory may know: the suite's folder, and whether the suite allows running Python files."""

    folder: Path
    allow_python: bool = False


class ScorerOptions(Config):
    """Options every scorer has."""

    name: str = ""
    """Name of the score; the scorer's own name when empty."""
    used_in_training: bool = False
    """This scorer (or its rule) also rewarded or filtered training data, so it is not independent evidence at the gate."""


@dataclass(frozen=True, slots=True)
class ScorerKind:
    """A registered scorer: its options class, its factory, the score names it yields and the files it depends on.

    With ``needs_models`` the factory builds a :data:`ModelScorer`, which sees all answers at once, after generation. ``amounts``: those of
    its scores that are amounts (nats, words), not passes or fractions, as far as that is known before a sample is scored.
    """

    options: type[ScorerOptions]
    build: Callable[[Any, str, ScorerContext], Scorer | ModelScorer]
    outputs: Callable[[str], list[str]]
    files: Callable[[Any], list[str]]
    needs_models: bool = False
    amounts: Callable[[Any, str], list[str]] = lambda options, name: []


scorers: Registry[ScorerKind] = Registry("scorer")


def one_output(name: str) -> list[str]:
    """The names of a scorer that yields one score."""
    return [name]


def no_files(options: Any) -> list[str]:
    """The files of a scorer that reads none."""
    return []
