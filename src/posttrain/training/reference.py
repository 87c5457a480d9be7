"""Log-probabilities under the policy as it was before its first update: computed once, written as they come, used by every later run.

A cache is a folder with ``logprobs.f32`` (float32, one number a supervised token, sequences in lexicographic order of their ids) and
``reference.json`` (what it was made of, and the hash of the finished file). Nothing in it depends on the objective or its
hyperparameters, so a sweep computes it once. A pass that was killed goes on where the file ends and gives the same bytes.
"""

import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from posttrain.config import content_hash, file_hash
from posttrain.config.files import write_json
from posttrain.errors import ConfigError
from posttrain.models import Policy, completion_logprobs
from posttrain.records import TokenSequence
from posttrain.training.distributed import World
from posttrain.training.identity import adapter_settings, architecture_hash

VALUES_FILE, HEADER_FILE = "logprobs.f32", "reference.json"
SCHEMA = 1
OnProgress = Callable[[int, int], None]
"""Called with the tokens done and all tokens of the pass."""


@dataclass(frozen=True, slots=True)
class ReferenceLogprobs:
    """A finished pass. ``values``: float32 [target] as in the file; sequence i of the pass owns ``values[starts[i]:ends[i]]``."""

    values: NDArray[np.float32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __getitem__(self, position: int) -> Float[Tensor, " target"]:
        """log p of the supervised tokens of one sequence, float32."""
        return torch.from_numpy(np.array(self.values[self.starts[position] : self.ends[position]]))

    def sums(self) -> Float[Tensor, " sequence"]:
        """log p of each completion: the sum over its supervised tokens, float32, in the order the sequences were given."""
        total = np.concatenate(([0.0], np.cumsum(self.values, dtype=np.float64)))
        return torch.from_numpy((total[self.ends] - total[self.starts]).astype(np.float32))


def reference_logprobs(
    policy: Policy,
    sequences: Sequence[TokenSequence],
    folder: str | Path,
    *,
    contract: str,
    max_tokens: int = 4096,
    world: World | None = None,
    on_progress: OnProgress | None = None,
) -> ReferenceLogprobs:
    """The reference log-probabilities of ``sequences``, from ``folder`` when they are there, else computed and written there.

    To be called before the first update: the policy is its own reference then (a fresh adapter is switched off), and no second model is
    ever in memory. ``contract``: hash of the chat contract. Time is linear in tokens; ``max_tokens`` of one forward pass. Killed, it
    goes on after the last whole pass in the file. Several processes share the work; the bytes do not depend on how many there are, and an
    error in one stops all.

    Raises ConfigError when the folder holds a cache of another model, adapter, contract or data; InfrastructureError when another process
    stopped.
    """
    world, place = world or World(), Path(folder)
    identity = reference_identity(policy, sequences, contract=contract)
    world.together(lambda: _check_identity(place, identity))
    order = sorted(range(len(sequences)), key=lambda position: sequences[position].input_ids.astype(">i4").tobytes())
    counts = np.array([int(sequences[position].completion_mask[1:].sum()) for position in order], dtype=np.int64)
    bounds = np.concatenate(([0], np.cumsum(counts)))
    starts, ends = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    starts[order], ends[order] = bounds[:-1], bounds[1:]
    with ExitStack() as held:

        def begin() -> dict[str, Any]:
            if not world.is_main:
                return {}
            held.enter_context(_locked(place))
            return _begin(place, identity, int(bounds[-1]), max_tokens)

        def finish() -> None:
            if world.is_main:
                write_json(place / HEADER_FILE, found | {"sha256": file_hash(place / VALUES_FILE)})

        found = world.together(begin)[0]
        if not found["sha256"]:
            passes = _passes([sequences[position] for position in order], found["max_tokens"])
            with _as_reference(policy):
                _compute(policy, passes, place / VALUES_FILE, world=world, on_progress=on_progress)
            world.together(finish)
    values = np.fromfile(place / VALUES_FILE, dtype="<f4").astype(np.float32, copy=False)
    return ReferenceLogprobs(values, starts, ends)


def reference_identity(policy: Policy, sequences: Sequence[TokenSequence], *, contract: str) -> dict[str, str]:
    """What reference log-probabilities depend on: every byte of the weights and what the configuration computes with them, the adapter gone
    on from, precision, contract, ids and masks.

    A fresh adapter is no part of it (the reference is the base beneath it), so full and LoRA runs of one model share a cache.
    """
    weights, adapter, data = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for name, parameter in policy.model.named_parameters():
        digest = adapter if "lora_" in name else weights
        name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for sequence in sequences:
        data.update(len(sequence).to_bytes(8, "little"))
        data.update(sequence.input_ids.tobytes())
        data.update(sequence.completion_mask.tobytes())
    if policy.settings.adapter is not None:
        adapter.update(content_hash(adapter_settings(policy)).encode())
    return {
        "model": weights.hexdigest(),
        "architecture": architecture_hash(policy),
        "adapter": adapter.hexdigest() if policy.settings.adapter is not None else "",
        "dtype": str(policy.compute_dtype).removeprefix("torch."),
        "contract": contract,
        "data": data.hexdigest(),
    }


@contextmanager
def starting_policy(policy: Policy, *, seed: int) -> Iterator[Policy]:
    """The policy as it was before its first update, for as long as the block lasts and without gradients.

    Under a fresh adapter: the same weights with the adapter off. Else the start model is opened again from its folder and let go at the
    end; between two steps no gradient is alive, so this does not raise the peak of a run.
    """
    if policy.settings.lora is not None:
        with policy.without_adapter():
            yield policy
        return
    settings = policy.settings.model_copy(update={"compile": False, "gradient_checkpointing": False})
    yield Policy.load(settings, seed=seed, device=policy.device)


def _as_reference(policy: Policy) -> Any:
    return policy.without_adapter() if policy.settings.lora is not None else nullcontext()


def _compute(
    policy: Policy, passes: Sequence[Sequence[TokenSequence]], file: Path, *, world: World, on_progress: OnProgress | None
) -> None:
    """Append the passes the file does not hold yet; every process computes its share of a round, the first one writes them in order."""
    targets = [sum(int(row.completion_mask[1:].sum()) for row in block) for block in passes]
    boundaries = np.concatenate(([0], np.cumsum(targets))) * np.dtype("<f4").itemsize
    tokens = np.concatenate(([0], np.cumsum([sum(map(len, block)) for block in passes])))

    def held() -> int:
        if not world.is_main:
            return 0
        count = int(np.searchsorted(boundaries, file.stat().st_size, side="right")) - 1
        os.truncate(file, int(boundaries[count]))
        return count

    def end_round(parts: Sequence[bytes], done: int) -> None:
        if world.is_main:
            _append(file, parts)
        if on_progress:
            on_progress(int(tokens[done]), int(tokens[-1]))

    for begin in range(world.together(held)[0], len(passes), world.size):
        number, end = begin + world.rank, min(begin + world.size, len(passes))
        parts = world.together(partial(_one_pass, policy, passes[number] if number < len(passes) else []))
        world.together(partial(end_round, parts, end))


def _append(file: Path, parts: Sequence[bytes]) -> None:
    with open(file, "ab") as stream:
        for part in parts:
            stream.write(part)
            stream.flush()
        os.fsync(stream.fileno())


def _one_pass(policy: Policy, block: Sequence[TokenSequence]) -> bytes:
    if not block:
        return b""
    rows = completion_logprobs(policy, block, max_tokens=sum(map(len, block)))
    return torch.cat(rows).float().numpy().astype("<f4", copy=False).tobytes()


def _passes(sequences: Sequence[TokenSequence], max_tokens: int) -> list[list[TokenSequence]]:
    """Neighbours in one pass while they have at most ``max_tokens`` together; a longer sequence runs alone."""
    cuts, used = [0], 0
    for position, sequence in enumerate(sequences):
        if used and used + len(sequence) > max_tokens:
            cuts.append(position)
            used = 0
        used += len(sequence)
    return [list(sequences[first:last]) for first, last in pairwise([*cuts, len(sequences)])]


def _begin(folder: Path, identity: Mapping[str, str], num_targets: int, max_tokens: int) -> dict[str, Any]:
    """The header of the cache in ``folder``, made when there is none; ``sha256`` is empty while the file is not finished."""
    _check_identity(folder, identity)  # again, now that no other run can be writing it
    header = _read_header(folder)
    values = folder / VALUES_FILE
    if header is None or not values.is_file():
        header = {"schema": SCHEMA, "identity": dict(identity), "targets": num_targets, "max_tokens": max_tokens, "sha256": ""}
        values.write_bytes(b"")
        write_json(folder / HEADER_FILE, header)
    elif header["sha256"] and file_hash(values) != header["sha256"]:
        warnings.warn(f"{values} is damaged: it is computed again", RuntimeWarning, stacklevel=5)
        values.write_bytes(b"")
        header = header | {"sha256": ""}
        write_json(folder / HEADER_FILE, header)
    return header


def _check_identity(folder: Path, identity: Mapping[str, str]) -> None:
    header = _read_header(folder)
    if header is None:
        return
    found = header["identity"]
    other = [part for part in identity if found.get(part) != identity[part]]
    if other:
        shown = ", ".join(
            f"other {part} ({found.get(part, '')[:12] or 'none'} there, {identity[part][:12] or 'none'} here)" for part in other
        )
        raise ConfigError(
            f"{folder} holds the reference log-probabilities of another run: {shown}",
            hint="name another folder for this run's reference cache, or remove that one",
        )


def _read_header(folder: Path) -> dict[str, Any] | None:
    try:
        header = json.loads((folder / HEADER_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ConfigError(f"{folder / HEADER_FILE} is no header of a reference cache", hint="name another folder, or remove this one")
    return header


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one run computes in a folder; another one waits for it and then finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
