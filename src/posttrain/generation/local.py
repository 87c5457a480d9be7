"""A generator over a stock Hugging Face causal language model on this machine."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain.chat import CONTRACT_FILE, ChatContract, load_record
from posttrain.errors import ConfigError, DataError
from posttrain.generation.batch import EXTENTS_PER_ROW, Batch
from posttrain.generation.packing import can_pack, pack_linears, pack_norms
from posttrain.generation.protocol import ENGINE_VERSION, OnDone, RowConstraint, finish_all
from posttrain.generation.row import Row
from posttrain.generation.sampling import check_sampling
from posttrain.generation.session import Engine, LocalSession
from posttrain.generation.support import check_model, context_length, folder_hash
from posttrain.generation.text import TextStream
from posttrain.models import check_token_ids, find_model, load_for_inference
from posttrain.records import Generation, GenerationRequest

INTERLEAVED_TOKENS = 256
"""Prompt tokens in one pass while other requests of a session wait for their next token."""
OFFLINE_TOKENS = 1024
"""The same where nobody watches: longer pieces finish the whole sooner."""


class LocalGenerator:
    """Batched sampling with prompt beginnings computed once, memory allocated once, and requests that come and go between two passes.

    ``token_ids`` and ``logprobs`` of an answer include the token that ended the turn; its text does not. The text is cut before the first
    stop string. ``logprobs`` are those of the model's own distribution (temperature 1, nothing cut off). ``seconds`` run from the moment a
    request joins the batch. Seeds are independent of the rest of the batch; logits agree to rounding, which depends on the batch's size.
    """

    def __init__(
        self, model: Any, contract: ChatContract, *, batch_size: int = 16, identity: dict[str, Any] | None = None, cache_gib: float = 4.0
    ) -> None:
        """``model`` is a causal language model in eval mode, used as it is. ``identity`` names its weights, for caches of answers.

        Keys and values take at most ``cache_gib``: fewer than ``batch_size`` rows run together when prompts are long, and the others wait.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", hint="accepted: 1 or more")
        self.model, self.contract, self.batch_size = model, contract, batch_size
        self.context_length = context_length(model.config)
        self._cache_gib = cache_gib
        check_model(model)
        parameter = next(model.parameters())
        self.identity: dict[str, Any] = {
            "engine": f"posttrain-local-{ENGINE_VERSION}",
            **(identity or {}),
            "contract": contract.hash,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": parameter.device.type,
        }
        positions = min(int(cache_gib * 2**30) // self._bytes_per_token(), 2 * EXTENTS_PER_ROW * batch_size * self.context_length)
        batch = Batch(model, num_rows=batch_size, num_positions=positions, end_ids=contract.eos_token_ids)
        self._engine = Engine(batch)

    @classmethod
    def load(
        cls,
        model_path: str | Path,
        adapter_path: str | Path | None = None,
        *,
        dtype: str = "auto",
        batch_size: int = 16,
        device: str = "cpu",
        merge: bool = True,
        pack: bool = True,
        cache_gib: float = 4.0,
    ) -> "LocalGenerator":
        """Open a model folder (or the name of a cached model) and an adapter. ``merge=False`` keeps the adapter beside the weights.

        ``pack`` lays the weights out for decoding where that is faster (CPU).
        """
        folder = find_model(model_path)
        model = load_for_inference(folder, adapter_path, dtype, device=device, merge=merge)
        if pack and (merge or adapter_path is None) and can_pack(model):
            pack_linears(model)
            pack_norms(model)
        contract = ChatContract.load(folder)
        for what, place in (("model", folder), *([("adapter", Path(adapter_path))] if adapter_path else [])):
            if (place / CONTRACT_FILE).is_file():
                contract.check_same(load_record(place), what=f"{what} {place}")
        identity = {"model": folder_hash(folder), "adapter": folder_hash(Path(adapter_path)) if adapter_path else None, "merged": merge}
        return cls(model, contract, batch_size=batch_size, identity=identity, cache_gib=cache_gib)

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_done: OnDone | None = None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Generation]:
        """One answer a request, in the order given; every request is checked before the first runs.

        ``on_text(index, piece)`` gets the text as it grows. Raises DataError for a prompt that does not fit the context or the cache,
        ConfigError for a sampling setting out of range.
        """
        with self.open(interleaved_tokens=OFFLINE_TOKENS) as session:
            rows = []
            for index, request in enumerate(requests):
                name = f"request {index}" + (f" ('{request.id}')" if request.id else "")
                emit = session.speaker(functools.partial(on_text, index)) if on_text else None
                rows.append(self.prepare(request, name, emit))
            order = sorted(range(len(rows)), key=lambda index: rows[index].tokens)
            tickets = {index: session.submit_row(requests[index], rows[index]) for index in order}
            return finish_all(session, [tickets[index] for index in range(len(rows))], on_done)

    def open(self, *, max_waiting: int | None = None, interleaved_tokens: int = INTERLEAVED_TOKENS) -> LocalSession:
        """A session: requests are submitted as they come and finish as they finish.

        ``max_waiting`` bounds the queue behind the ``batch_size`` that run (None: no bound). ``interleaved_tokens``: how much of new
        prompts is computed between two tokens of those that run; less makes those steadier, more starts new ones sooner.
        """
        return LocalSession(self, self._engine, max_waiting=max_waiting, interleaved_tokens=interleaved_tokens)

    def forget(self) -> None:
        """To be called after the model's weights changed: prompt beginnings computed before are not used again."""
        self._engine.forget()

    def prepare(self, request: GenerationRequest, name: str, emit: Callable[[str], None] | None = None) -> Row:
        """The row of a request, called ``name`` in errors; ``emit`` gets pieces of its text. Raises what :meth:`generate` raises."""
        check_sampling(request.sampling, name)
        ids = list(request.prompt_ids) or self.contract.encode(request.messages, tools=request.tools, add_generation_prompt=True).tolist()
        if not 0 < len(ids) < self.context_length:
            raise DataError(
                f"{name}: the prompt has {len(ids)} tokens; the context is {self.context_length}, at least one of them for the answer",
                hint="shorten the prompt, or leave the row out",
            )
        check_token_ids(max(ids), self.model)
        limit = min(request.sampling.max_new_tokens, self.context_length - len(ids))
        if len(ids) + limit > self._engine.batch.num_positions:
            raise ConfigError(
                f"{name}: {len(ids)} tokens and {limit} new ones do not fit into the cache, {self._engine.batch.num_positions} tokens "
                f"({self._cache_gib:g} GiB)",
                hint="raise cache_gib, or lower max_new_tokens",
            )
        stream = TextStream(self.contract.decode, request.sampling.stop, emit) if emit or request.sampling.stop else None
        return Row(ids, request.sampling, limit, self._constraint(request), stream)

    def _constraint(self, request: GenerationRequest) -> RowConstraint | None:
        if request.constraint is None:
            return None
        from posttrain.generation.constraint import build_constraint

        vocab = self.model.get_input_embeddings().weight.shape[0]
        return build_constraint(request.constraint, request.tools, self.contract, vocab)

    def answer(self, row: Row, request: GenerationRequest) -> Generation:
        """The answer of a finished row."""
        ids = row.generated
        if row.stream is not None:
            text = row.stream.finish()
        else:
            text = self.contract.decode(ids[:-1] if ids[-1] in self.contract.eos_token_ids else ids)
        return Generation(
            text=text,
            finish_reason=row.finish_reason,
            num_prompt_tokens=row.num_prompt,
            num_completion_tokens=len(ids),
            seconds=row.seconds,
            token_ids=tuple(ids),
            logprobs=tuple(row.logprobs),
            id=request.id,
        )

    def _bytes_per_token(self) -> int:
        config, size = self.model.config, next(self.model.parameters()).element_size()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * head_dim * size)
