"""A saved reward model: prompt and answer in, one number out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.chat import CONTRACT_FILE, ChatContract, load_record
from posttrain.config import file_hash
from posttrain.config.files import write_json
from posttrain.errors import ConfigError, DataError, ModelError
from posttrain.models import ScalarModel, build_forest, find_model
from posttrain.models.completions import packs
from posttrain.records import Message, PreferencePair, TokenSequence

CALIBRATION_FILE = "calibration.json"
SEEN_FILE = "seen.json"
KEY_LENGTH = 16  # hex digits kept of a dialogue's hash: 64 bits
Turns = Sequence[Message]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration split says: P(a better than b) = sigmoid((r_a - r_b) / temperature).

    ``mean`` and ``deviation``: of the split's rewards, the model's own zero and unit. ``pairs``: how many pairs it was fitted on;
    ``source``: the hash of those pairs. ``low``, ``high``: 95 % interval of the temperature.
    """

    temperature: float
    low: float | None
    high: float | None
    mean: float
    deviation: float
    pairs: int
    source: str
    loss_before: float
    loss_after: float

    def save(self, path: str | Path) -> None:
        """Write it as JSON (an interval without an end is null)."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read it back. Raises ConfigError when the file is something else."""
        try:
            found = cls(**json.loads(Path(path).read_text(encoding="utf-8")))
            usable = found.temperature > 0 and math.isfinite(found.temperature) and found.deviation > 0
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: no calibration can be read: {error}", hint="fit it again with `posttrain reward train`") from None
        if not usable:
            raise ConfigError(f"{path}: temperature {found.temperature} or deviation {found.deviation} is not above 0")
        return found


class RewardModel:
    """Scores of conversations under the model's own chat contract, in packed forests that share what begins alike."""

    def __init__(
        self, model: ScalarModel, contract: ChatContract, *, folder: Path, calibration: Calibration | None = None, batch_tokens: int = 4096
    ) -> None:
        """Prefer :meth:`load`. ``batch_tokens``: most tokens in one forest, before sharing; it bounds memory, never the result."""
        self.contract, self.folder, self.calibration = contract, folder, calibration
        self._model, self._batch_tokens = model, batch_tokens

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        batch_tokens: int = 4096,
        device: torch.device | str = "cpu",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    ) -> Self:
        """Open a folder written by the reward_model stage, or any sequence classifier of one label with a chat template.

        Raises ModelError for what is no reward model, ContractError
        when the tokenizer is not the one the model was trained under.
        """
        folder = find_model(path)
        contract = ChatContract.load(folder)
        if (folder / CONTRACT_FILE).is_file():
            contract.check_same(load_record(folder), what=f"reward model {folder}")
        model = ScalarModel.load_frozen(folder, dtype=dtype, device=device)
        calibration = Calibration.load(folder / CALIBRATION_FILE) if (folder / CALIBRATION_FILE).is_file() else None
        return cls(model, contract, folder=folder, calibration=calibration, batch_tokens=batch_tokens)

    @property
    def context_length(self) -> int:
        """The longest conversation it can score, in tokens."""
        return int(self._model.model.config.max_position_embeddings)

    @property
    def temperature(self) -> float:
        """The calibrated temperature, 1 where the model has no calibration."""
        return self.calibration.temperature if self.calibration else 1.0

    @cached_property
    def seen(self) -> Mapping[str, frozenset[str]]:
        """First digits of the keys of the dialogues that trained the model and that fitted its temperature; empty where not kept."""
        file = self.folder / SEEN_FILE
        if not file.is_file():
            return {}
        try:
            return {name: frozenset(keys) for name, keys in json.loads(file.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ModelError(f"{file} cannot be read: {error}", hint="train the model again, or remove the file") from None

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Name, SHA-256 of the weights, contract hash and temperature: what a result made with it depends on."""
        weights = sorted(self.folder.glob("*.safetensors")) or sorted(self.folder.glob("pytorch_model*.bin"))
        return {
            "name": "/".join(self.folder.parts[-2:]),
            "weights": [file_hash(file) for file in weights],
            "contract": self.contract.hash,
            "temperature": self.temperature,
        }

    def score(self, pairs: Sequence[tuple[Turns, Turns]]) -> list[float]:
        """The reward of each (prompt, completion), in the model's own units and the order given.

        Raises DataError naming the conversations longer than the model's context (nothing is cut) and ModelError when a reward is
        NaN or infinite.
        """
        return self.score_sequences([self.encode(prompt, completion, index=i) for i, (prompt, completion) in enumerate(pairs, 1)])

    def score_pairs(self, pairs: Sequence[PreferencePair]) -> NDArray[np.float64]:
        """float64 [pair, 2]: the rewards of chosen and rejected, tools included."""
        sides = [(pair, side) for pair in pairs for side in (pair.chosen, pair.rejected)]
        rows = [self.encode(pair.prompt, side, tools=pair.tools, index=number // 2 + 1) for number, (pair, side) in enumerate(sides)]
        return np.array(self.score_sequences(rows), dtype=np.float64).reshape(-1, 2)

    def encode(self, prompt: Turns, completion: Turns, *, tools: Sequence[Mapping[str, Any]] = (), index: int = -1) -> TokenSequence:
        """A conversation's ids under this model's contract, cut into tokens where training cuts it; none is supervised."""
        ids = self.contract.encode_completion(prompt, completion, tools=tools, index=index).input_ids
        return TokenSequence(ids, np.zeros(len(ids), dtype=bool), index)

    @torch.no_grad()
    def score_sequences(self, sequences: Sequence[TokenSequence]) -> list[float]:
        """:meth:`score` for encoded conversations."""
        limit = self.context_length
        if too_long := [row for row in sequences if len(row) > limit]:
            places = ", ".join(f"row {row.index} ({len(row)} tokens)" for row in too_long[:10])
            raise DataError(
                f"{len(too_long)} of {len(sequences)} conversations are longer than the reward model's {limit} positions: {places}",
                hint="leave them out: a cut answer would be judged for what it does not say",
            )
        found = [0.0] * len(sequences)
        for positions in packs(sequences, self._batch_tokens):
            forest = build_forest([sequences[position] for position in positions]).to(self._model.device)
            for position, reward in zip(positions, self._model.rewards(forest).tolist(), strict=True):
                found[position] = reward
        if broken := [position for position, reward in enumerate(found) if not math.isfinite(reward)]:
            raise ModelError(
                f"{self.folder}: the reward of conversation {broken[0]} is {found[broken[0]]} ({len(broken)} of {len(found)} not finite)",
                hint="the weights are damaged, or training diverged: train again with a lower learning_rate",
            )
        return found

    def probability(self, first: float, second: float) -> float:
        """P(the first of two rewards belongs to the better answer), with the calibrated temperature."""
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, (first - second) / self.temperature))))

    def standardize(self, rewards: Sequence[float]) -> list[float]:
        """Rewards in units of log-odds above the calibration split's mean, so that different models can be set beside each other."""
        if self.calibration is None:
            raise ConfigError(
                f"{self.folder} has no {CALIBRATION_FILE}, so its rewards have no unit", hint="give the stage a calibration split"
            )
        return [(reward - self.calibration.mean) / self.calibration.temperature for reward in rewards]

    def require_contract(self, contract: ChatContract, *, what: str) -> None:
        """Refuse to be used token by token on ids made under another contract; scoring text needs no agreement.

        Raises ContractError with the first differing token.
        """
        self.contract.check_same(contract.record(), what=what)
