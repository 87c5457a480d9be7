"""A generator over a stock Hugging Face causal language model on this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from posttrain.chat import CONTRACT_FILE, ChatContract, load_record
from posttrain.errors import ConfigError, DataError
from posttrain.generation.batch import Batch, LogitsHook, Row
from posttrain.generation.packing import can_pack, pack_linears
from posttrain.generation.protocol import ENGINE_VERSION, OnDone
from posttrain.generation.sampling import check_sampling
from posttrain.generation.support import check_model, context_length, folder_hash
from posttrain.generation.text import TextStream
from posttrain.models import find_model, load_for_inference
from posttrain.records import Generation, GenerationRequest

OnText = Callable[[int, str], None]
HookFor = Callable[[GenerationRequest], LogitsHook | None]


class LocalGenerator:
    """Batched sampling with shared prompt beginnings computed once, a preallocated cache, and rows that come and go.

    ``token_ids`` and ``logprobs`` of an answer include the token that ended the turn; its text does not. The text is cut before the first
    stop string. ``logprobs`` are those of the model's own distribution (temperature 1, nothing cut off). ``seconds`` run from the moment a
    request joins the batch. Seeds are independent of the rest of the batch; logits agree to rounding, which depends on the batch's size.
    """

    def __init__(
        self, model: Any, contract: ChatContract, *, batch_size: int = 16, identity: dict[str, Any] | None = None, cache_gib: float = 8.0
    ) -> None:
        """``model`` is a causal language model in eval mode, used as it is. ``identity`` names its weights, for caches of answers.

        The cache takes at most ``cache_gib``: fewer than ``batch_size`` rows run together when prompts are long.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", hint="accepted: 1 or more")
        self.model, self.contract, self.batch_size = model, contract, batch_size
        self.context_length = context_length(model.config)
        self._cache_bytes = int(cache_gib * 2**30)
        check_model(model)
        parameter = next(model.parameters())
        self.identity: dict[str, Any] = {
            "engine": f"posttrain-local-{ENGINE_VERSION}",
            **(identity or {}),
            "contract": contract.hash,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": parameter.device.type,
        }
        self._batch: Batch | None = None

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
        cache_gib: float = 8.0,
    ) -> "LocalGenerator":
        """Open a model folder (or the name of a cached model) and an adapter. ``merge=False`` keeps the adapter beside the weights.

        ``pack`` lays the weights out for decoding where that is faster (CPU).
        """
        folder = find_model(model_path)
        model = load_for_inference(folder, adapter_path, dtype, device=device, merge=merge)
        if pack and (merge or adapter_path is None) and can_pack(model):
            pack_linears(model)
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
        on_text: OnText | None = None,
        hook_for: HookFor | None = None,
    ) -> list[Generation]:
        """One answer a request, in the order given; every request is checked before the first runs.

        ``on_text(index, piece)`` gets the text as it grows. ``hook_for(request)`` may give a function that changes the request's logits.
        Raises DataError for a prompt that does not fit the context, ConfigError for a sampling setting out of range.
        """
        rows = [self._row(index, request, on_text, hook_for) for index, request in enumerate(requests)]
        answers: dict[int, Generation] = {}

        def finish(row: Row) -> None:
            answers[row.index] = self._answer(row, requests[row.index])
            if on_done:
                on_done(row.index, answers[row.index])

        if rows:
            need = max(row.num_prompt + row.limit for row in rows)
            self._room_for(need, len(rows)).run(sorted(rows, key=lambda row: row.tokens), finish)
        return [answers[index] for index in range(len(rows))]

    def forget(self) -> None:
        """To be called after the model's weights changed: prompt beginnings computed before are not used again."""
        if self._batch:
            self._batch.forget()

    def _row(self, index: int, request: GenerationRequest, on_text: OnText | None, hook_for: HookFor | None) -> Row:
        name = f"request {index}" + (f" ('{request.id}')" if request.id else "")
        check_sampling(request.sampling, name)
        ids = self.contract.encode(request.messages, tools=request.tools, add_generation_prompt=True).tolist()
        if not 0 < len(ids) < self.context_length:
            raise DataError(
                f"{name}: the prompt has {len(ids)} tokens; the context is {self.context_length}, at least one of them for the answer",
                hint="shorten the prompt, or leave the row out",
            )
        stream = None
        if on_text or request.sampling.stop:
            stream = TextStream(self.contract.decode, request.sampling.stop, (lambda piece: on_text(index, piece)) if on_text else None)
        limit = min(request.sampling.max_new_tokens, self.context_length - len(ids))
        return Row(index, ids, request.sampling, limit, hook_for(request) if hook_for else None, stream)

    def _answer(self, row: Row, request: GenerationRequest) -> Generation:
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

    def _room_for(self, length: int, num_rows: int) -> Batch:
        """The batch of the last call when it is large enough, else a new one within the memory given.

        A single row gets twice what it asked for, so that a conversation can grow; several get what they asked for and no more.
        """
        slots = min(num_rows, self.batch_size)
        if self._batch and self._batch.capacity >= length and self._batch.num_slots >= slots:
            return self._batch
        most = self._cache_bytes // self._bytes_per_token()
        if length > most:
            raise ConfigError(f"{length} tokens do not fit into {self._cache_bytes / 2**30:.1f} GiB of cache", hint="raise cache_gib")
        capacity = min(length if slots > 1 else 2 * length, self.context_length, most)
        self._batch = None
        self._batch = Batch(self.model, num_slots=min(slots, most // capacity), capacity=capacity, end_ids=self.contract.eos_token_ids)
        return self._batch

    def _bytes_per_token(self) -> int:
        config, size = self.model.config, next(self.model.parameters()).element_size()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * head_dim * size)
