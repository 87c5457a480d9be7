"""The chat contract: template, tokenizer and special tokens under one hash; the one rule T(messages) -> text -> token ids."""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from posttrain.chat.alignment import Aligner, Span, encoded
from posttrain.chat.call_format import CallFormat, ParsedTurn, derive_call_format
from posttrain.chat.control import ControlText, literals, unmark
from posttrain.chat.golden import SCHEMA, GoldenConversation, describe_difference, golden_renderings
from posttrain.chat.identity import chat_special_tokens, identity_hashes, plain_backend
from posttrain.chat.rendering import PROBE_CHAT, PROBE_TOOL, TEMPLATE_DATE, TemplateRenderer
from posttrain.chat.supervision import MaskKind, SpanFinder, derive_turn_ends, supervised_turns
from posttrain.config import model_folder
from posttrain.config.files import write_json
from posttrain.errors import ContractError, suggest
from posttrain.records import Demonstration, Message, TokenSequence

CONTRACT_FILE = "contract.json"
_BATCH = 256
Tools = Sequence[Mapping[str, Any]]


class ChatContract:
    """T(messages) -> text -> ids, used by training, evaluation and generation alike.

    ``tokenizer`` is the Hugging Face tokenizer, ``template`` its Jinja text, ``eos_token_ids`` the ids that end an assistant turn
    (derived by rendering the template, the tokenizer's EOS added). The template alone writes special tokens: nothing adds a BOS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = template if template is not None else _template_of(tokenizer)
        self._backend = plain_backend(tokenizer)
        self._special_tokens = chat_special_tokens(tokenizer, self.template)
        self._settings = {"date": TEMPLATE_DATE} if "strftime_now" in self.template else {}
        self._renderer = TemplateRenderer(self.template, self._special_tokens)
        added = self._backend.get_added_tokens_decoder()
        self._aligner = Aligner(self._backend, list(added))
        self._control = ControlText(self._backend, self.template)
        ends = derive_turn_ends(self._renderer, [token.content for token in added.values() if token.special])
        self._spans = SpanFinder(self._renderer, ends)
        ids = [self._backend.token_to_id(end.token) for end in ends] + [tokenizer.eos_token_id]
        self.eos_token_ids: tuple[int, ...] = tuple(dict.fromkeys(i for i in ids if i is not None))

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """``hash`` and the hash of each part: template, tokenizer, special_tokens, settings."""
        return identity_hashes(self.template, self._backend, self._special_tokens, self._settings)

    @property
    def hash(self) -> str:
        """``chat:<sha256>`` of everything that decides text or ids; the same for every file layout that means the same."""
        return self.hashes["hash"]

    def render(self, messages: Sequence[Message], *, tools: Tools = (), add_generation_prompt: bool = False) -> str:
        """The text of a conversation. Raises ContractError where the template refuses it."""
        return self._renderer.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)

    def encode(self, messages: Sequence[Message], *, tools: Tools = (), add_generation_prompt: bool = False) -> NDArray[np.int32]:
        """int32 [token]: the ids of :meth:`render`. No second BOS: only the template writes special tokens.

        Text inside a message that looks like a control token (``<|im_end|>`` typed by a user) is encoded as ordinary text.
        """
        marked, marked_tools = self._marked(messages, tools)
        text = self._renderer.render(marked, tools=marked_tools, add_generation_prompt=add_generation_prompt)
        if marked is messages:
            return np.array(self._backend.encode(text, add_special_tokens=False).ids, dtype=np.int32)
        self._check_marks(text, self.render(messages, tools=tools, add_generation_prompt=add_generation_prompt))
        return np.array(self._control.encode(text).ids, dtype=np.int32)

    def control_text(self, messages: Sequence[Message], tools: Tools = ()) -> list[str]:
        """Control tokens written literally in a conversation (they are encoded as ordinary text): for reports."""
        return self._control.found(messages, tools)

    def supervise(self, demonstration: Demonstration, *, mask: MaskKind = "assistant", index: int = -1) -> TokenSequence:
        """Ids and mask of a demonstration.

        ``mask``: ``"assistant"`` every assistant turn; ``"completion"`` the assistant turns after the last user message (a tool
        trajectory's calls and its final answer); ``"last"`` the last assistant turn alone. Where the data sets prompt and completion apart,
        the first two are the assistant turns of its completion. A turn is what the model generates: what
        follows the generation prompt, tool-call arguments included, up to and with the end-of-turn token. System, user and tool
        messages, the generation prompt, and turns the data gives weight 0 are never supervised.

        Where the answer would change the token ids of the generation prompt (a template ending in a newline, an answer beginning
        with one), the text is encoded in two parts there, as it is when generating.
        Raises ContractError, naming the row, when the mask cannot be derived exactly.
        """
        return next(self.supervise_many([demonstration], mask=mask, first_index=index))

    def supervise_many(
        self, demonstrations: Iterable[Demonstration], *, mask: MaskKind = "assistant", first_index: int = 0
    ) -> Iterator[TokenSequence]:
        """:meth:`supervise` for a stream, encoded in batches; rows are numbered from ``first_index``."""
        for result in self.supervise_each(demonstrations, mask=mask, first_index=first_index):
            if isinstance(result, ContractError):
                raise result
            yield result

    def supervise_each(
        self, demonstrations: Iterable[Demonstration], *, mask: MaskKind = "assistant", first_index: int = 0
    ) -> Iterator[TokenSequence | ContractError]:
        """Like :meth:`supervise_many`, but a row without an exact mask gives its error in place of a sequence."""
        rows = iter(demonstrations)
        while batch := list(islice(rows, _BATCH)):
            located = [self._locate(row, supervised_turns(row, mask), first_index + i) for i, row in enumerate(batch)]
            texts = [place[0] for place in located if not isinstance(place, ContractError)]
            encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
            for i, place in enumerate(located):
                if isinstance(place, ContractError):
                    yield place
                else:
                    yield self._sequence(next(encodings), *place, first_index + i)
            first_index += len(batch)

    def encode_completion(
        self, prompt: Sequence[Message], completion: Sequence[Message], *, tools: Tools = (), index: int = -1
    ) -> TokenSequence:
        """Ids of prompt + completion, the completion's assistant turns masked in (tool results inside it are not).

        The ids begin with ``encode(prompt, add_generation_prompt=True)``; ContractError where that cannot be.
        """
        turns = [len(prompt) + i for i, message in enumerate(completion) if message.role == "assistant"]
        if not turns or turns[0] != len(prompt):
            raise ContractError(
                f"row {index}: a completion begins with an assistant message", hint="move what comes before it into the prompt"
            )
        row = Demonstration((*prompt, *completion), tools=tuple(tools))
        place = self._locate(row, turns, index)
        if isinstance(place, ContractError):
            raise place
        result = self._sequence(self._backend.encode(place[0], add_special_tokens=False), *place, index)
        if isinstance(result, ContractError):
            raise result
        return result

    def decode(self, ids: Sequence[int] | NDArray[np.int32], *, skip_special_tokens: bool = True) -> str:
        """Text of generated ids without special tokens, spaces untouched."""
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens))

    @property
    def backend(self) -> Tokenizer:
        """The Rust tokenizer as it is used here: it adds, cuts and pads nothing. Not to be changed."""
        return self._backend

    @functools.cached_property
    def call_format(self) -> CallFormat | None:
        """How the template writes tool calls; None where it prints none. Raises ContractError where it cannot be told."""
        if self._renderer.call_form is None:
            return None
        return derive_call_format(lambda turn: self._spans.turn_text([PROBE_CHAT[0], turn], (PROBE_TOOL,)))

    def parse_turn(self, ids: Sequence[int] | NDArray[np.int32]) -> ParsedTurn:
        """What a generated turn says: content, calls, and what is wrong with calls that cannot be read. ``ids`` may hold the end token."""
        tokens = [int(i) for i in ids]
        if tokens and tokens[-1] in self.eos_token_ids:
            tokens.pop()
        text = self.decode(tokens, skip_special_tokens=False)
        return self.call_format.parse(text) if self.call_format else ParsedTurn(text)

    def continuation(self, messages: Sequence[Message], *, tools: Tools = ()) -> NDArray[np.int32]:
        """int32 [token]: what the template writes after the end token of the last assistant turn, up to and with the generation prompt.

        An episode's ids are prompt, generated turn, continuation, generated turn, ...; nothing is encoded twice, and for turns written as
        the template writes them the sum is :meth:`encode` of the whole. Raises ContractError where the template rewrites what stands
        before that turn once these messages follow.
        """
        turn = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=-1)
        if turn < 0:
            raise ContractError(
                "there is no assistant turn to continue after", hint="encode(messages, add_generation_prompt=True) begins one"
            )
        marked, marked_tools = self._marked(messages, tools)
        text = self._spans.following(marked, marked_tools, turn)
        if marked is not messages:
            self._check_marks(text, self._spans.following(messages, tools, turn))
        return np.array(self._control.encode(text, marked=marked is not messages).ids[1:], dtype=np.int32)

    def record(self) -> dict[str, Any]:
        """Plain JSON: hashes, template, special tokens, golden conversations, library versions. What ``contract.json`` holds."""
        hashes = dict(self.hashes)
        return {
            "schema": SCHEMA,
            "hash": hashes.pop("hash"),
            "parts": hashes,
            "eos_token_ids": list(self.eos_token_ids),
            "special_tokens": self._special_tokens,
            "settings": self._settings,
            "template": self.template,
            "golden": golden_renderings(self._golden),
            "versions": {name: version(name) for name in ("posttrain", "transformers", "tokenizers", "jinja2")},
        }

    def save(self, directory: str | Path) -> None:
        """Write the tokenizer files, the template and ``contract.json`` into ``directory`` (made when missing)."""
        self.tokenizer.chat_template = self.template
        self.tokenizer.save_pretrained(directory)
        write_json(Path(directory) / CONTRACT_FILE, self.record())

    def check_same(self, recorded: Mapping[str, Any], *, what: str) -> None:
        """Raise ContractError when ``recorded`` (a :meth:`record`) is another contract; the message shows the first differing token."""
        lines = describe_difference(recorded, self.record()) if recorded.get("hash") != self.hash else []
        if lines:
            raise ContractError(
                f"{what} was made under another chat contract\n  " + "\n  ".join(lines),
                hint="use the tokenizer and template it was made with, or make it again under the present ones",
            )

    def _golden(self, conversation: GoldenConversation) -> dict[str, Any]:
        try:
            text = self.render(conversation.messages, tools=conversation.tools, add_generation_prompt=conversation.add_generation_prompt)
        except ContractError as error:
            return {"refused": error.message}
        encoding = self._backend.encode(text, add_special_tokens=False)
        return {"text": text, "ids": encoding.ids, "tokens": encoding.tokens}

    def _marked(self, messages: Sequence[Message], tools: Tools) -> tuple[Sequence[Message], Tools]:
        """The conversation itself, or with its literal control tokens marked when it has some."""
        if not self._control.found(messages, tools):
            return messages, tools
        return self._control.mark(messages, tools)

    @staticmethod
    def _check_marks(marked: str, plain: str) -> None:
        if unmark(marked) != plain:
            raise ContractError(
                "the conversation holds literal control tokens, and the template acts on them, so they cannot be kept as text",
                hint="remove them: " + ", ".join(sorted(set(literals(marked)))),
            )

    def _locate(self, row: Demonstration, turns: Sequence[int], index: int) -> tuple[str, list[Span], bool] | ContractError:
        """The text of a row, the spans of ``turns`` in it, and whether literal control tokens are marked in it."""
        try:
            messages, tools = self._marked(row.messages, row.tools)
            text, spans = self._spans.find(messages, tools, turns)
            if messages is not row.messages:
                self._check_marks(text, self.render(row.messages, tools=row.tools))
            return text, spans, messages is not row.messages
        except ContractError as error:
            return _in_row(error, index)

    def _sequence(self, encoding: Encoding, text: str, spans: Sequence[Span], marked: bool, index: int) -> TokenSequence | ContractError:
        try:
            tokens = self._control.encode(text) if marked else encoded(encoding.ids, encoding.offsets)
            mask, wrong = self._aligner.mask(text, tokens, spans)
            if wrong:
                tokens = self._control.encode(text, cuts=wrong, marked=marked)
                mask, wrong = self._aligner.mask(text, tokens, spans)
        except ContractError as error:
            return _in_row(error, index)
        if wrong:
            reason = f"the token ids in front of {text[wrong[0] : wrong[0] + 20]!r} are not those of the generation prompt"
            return _in_row(ContractError(reason, hint="remove white space at the start of the assistant's content"), index)
        return TokenSequence(tokens.ids, mask, index)

    @classmethod
    def load(cls, path: str | Path, *, template: str | None = None) -> "ChatContract":
        """From a model or tokenizer folder, or a cached model's name. ``template``: Jinja text to use in place of the folder's own."""
        folder = model_folder(path)
        if not folder.is_dir():
            raise ContractError(f"{folder}: no such folder", hint="give a folder with tokenizer.json; `posttrain models add` makes one")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ContractError(f"{folder}: no tokenizer can be loaded: {reason}", hint="the folder needs a tokenizer.json") from None
        try:
            return cls(tokenizer, template)
        except ContractError as error:
            raise ContractError(f"{folder}: {error.message}", hint=error.hint) from None


def template_text(name_or_path: str | Path) -> str:
    """The Jinja text of a template file, or of a template this package brings (``"chatml-tools"``)."""
    shipped = {file.name.removesuffix(".jinja"): file for file in (resources.files("posttrain.chat") / "templates").iterdir()}
    file = shipped.get(str(name_or_path)) or Path(name_or_path)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "give a Jinja file; " + suggest(str(name_or_path), shipped)
        raise ContractError(f"template '{name_or_path}' cannot be read: {reason}", hint=hint) from None


def load_record(path: str | Path) -> dict[str, Any]:
    """A frozen record: a JSON file, or the ``contract.json`` of an artefact's folder. Raises ContractError when it is none."""
    file = Path(path)
    if file.is_dir():
        file = file / CONTRACT_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ContractError(
            f"{file}: no contract record can be read: {error}", hint="`posttrain contract freeze MODEL -o FILE` writes one"
        ) from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not isinstance(record.get("hash"), str):
        raise ContractError(
            f"{file}: this is no contract record of schema {SCHEMA}", hint="`posttrain contract freeze MODEL -o FILE` writes one"
        )
    return record


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.chat_template
    if isinstance(template, str):
        return template
    if isinstance(template, dict):
        raise ContractError(
            f"the tokenizer has several chat templates ({', '.join(sorted(template))}); a contract has one",
            hint="pass the text of one as template=",
        )
    raise ContractError("the tokenizer has no chat template", hint="pass template=, or put a chat_template.jinja into the folder")


def _in_row(error: ContractError, index: int) -> ContractError:
    return ContractError(f"row {index}: {error.message}" if index >= 0 else error.message, hint=error.hint)
