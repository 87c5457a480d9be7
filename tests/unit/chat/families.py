"""Ten model families: their template fixtures, special tokens and tokenizers trained on the spot."""

import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from posttrain.chat import ChatContract
from posttrain.records import Message, ToolCall

TEMPLATES = Path(__file__).parents[2] / "fixtures" / "templates"

_CORPUS = [
    "What is the total revenue in the year 2019, in millions of dollars? The answer is 1,496.5 million.",
    '{"name": "get_balance", "arguments": {"account": "A-17", "limit": 25.5, "open": true}}',
    "system user assistant model tool ipython\nassistant\n\n  two  spaces\n\n\nthree lines\n \n  indented\t\ttabs",
    "naïve café 日本語 🙂 Ω ≈ ½ “ok” — the the there then them answer answers answered",
    "def f(x):\n    return x\n\n\nprint(f(2))\n    and  more   white    space     here\n",
] * 4


@dataclass(frozen=True)
class Family:
    """bos, eos: named special tokens; special: the other special tokens; written: added tokens that are not special."""

    name: str
    eos: str
    turn_end: str
    special: tuple[str, ...]
    bos: str | None = None
    written: tuple[str, ...] = ()
    metaspace: str | None = None
    tools: bool = False
    system: bool = True
    trims: bool = False
    swallows: bool = False
    llama_split: bool = False

    @property
    def marked_template(self) -> str:
        return (TEMPLATES / f"{self.name}.jinja").read_text(encoding="utf-8")

    @property
    def template(self) -> str:
        """The same template without ``{% generation %}``, white-space control included."""
        text = re.sub(r"\{%- generation -%\}", "{%- if true -%}", self.marked_template)
        return re.sub(r"\{%- endgeneration -%\}", "{%- endif -%}", text)


_LLAMA_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_QWEN = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_LLAMA = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>", "<|eom_id|>")
_MISTRAL = (
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "<s>",
    "</s>",
)
_DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
_DEEPSEEK_TOOL = ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep", "outputs▁begin", "outputs▁end", "output▁begin", "output▁end")
_DEEPSEEK_WRITTEN = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", *(f"<｜tool▁{part}｜>" for part in _DEEPSEEK_TOOL))

FAMILIES = {
    family.name: family
    for family in (
        Family("chatml", "<|im_end|>", "<|im_end|>", _CHATML),
        Family("smollm2", "<|im_end|>", "<|im_end|>", _CHATML, bos="<|im_start|>"),
        Family("llama3", "<|end_of_text|>", "<|eot_id|>", _LLAMA, llama_split=True, bos="<|begin_of_text|>", tools=True, trims=True),
        Family("mistral", "</s>", "</s>", _MISTRAL, bos="<s>", metaspace="first", tools=True),
        Family(
            "gemma",
            "<eos>",
            "<end_of_turn>",
            ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
            bos="<bos>",
            metaspace="never",
            system=False,
            trims=True,
        ),
        Family(
            "phi3",
            "<|endoftext|>",
            "<|end|>",
            ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
            metaspace="always",
            swallows=True,
        ),
        Family("qwen25", "<|im_end|>", "<|im_end|>", _CHATML, llama_split=True, written=_QWEN[:4], tools=True),
        Family("qwen3", "<|im_end|>", "<|im_end|>", _CHATML, llama_split=True, written=_QWEN, tools=True),
        Family("deepseek", _DEEPSEEK[1], _DEEPSEEK[1], _DEEPSEEK, bos=_DEEPSEEK[0], written=_DEEPSEEK_WRITTEN, tools=True),
        Family("deepseek_r1", _DEEPSEEK[1], _DEEPSEEK[1], _DEEPSEEK, bos=_DEEPSEEK[0], written=_DEEPSEEK_WRITTEN),
    )
}
# The Llama 3 template over a GPT-2 tokenizer: whether the two newlines that end its prompt are one token depends on what follows.
FAMILIES["llama3_gpt2"] = replace(FAMILIES["llama3"], llama_split=False)
MASKABLE = [name for name in FAMILIES if name not in ("deepseek_r1", "llama3_gpt2")]
WITH_TOOLS = [name for name, family in FAMILIES.items() if family.tools and name != "llama3_gpt2"]


@functools.cache
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A small BPE tokenizer with the family's special tokens: byte-level, or SentencePiece-like with metaspace and byte fallback."""
    family = FAMILIES[name]
    if family.metaspace:
        backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=family.metaspace)
        backend.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme=family.metaspace), decoders.ByteFallback(), decoders.Fuse()])
        alphabet = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=alphabet, show_progress=False)
    else:
        backend = Tokenizer(models.BPE())
        by_regex = pre_tokenizers.Split(Regex(_LLAMA_SPLIT), behavior="isolated")
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not family.llama_split)
        backend.pre_tokenizer = pre_tokenizers.Sequence([by_regex, by_bytes]) if family.llama_split else by_bytes
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    backend.train_from_iterator(_CORPUS, trainer)
    if family.metaspace:
        backend = _plain_alphabet(backend)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False, rstrip=family.swallows) for token in family.special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.written])
    named = {"bos_token": family.bos} if family.bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=family.eos, chat_template=family.template, **named)


def _plain_alphabet(backend: Tokenizer) -> Tokenizer:
    """Training needs the byte tokens as special ones; a real SentencePiece vocabulary holds them as plain pieces."""
    import json

    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] == "<unk>"]
    return Tokenizer.from_str(json.dumps(state))


@functools.cache
def contract(name: str) -> ChatContract:
    return ChatContract(tokenizer(name))


TOOL = {
    "type": "function",
    "function": {
        "name": "get_balance",
        "description": "Balance of an account.",
        "parameters": {"type": "object", "properties": {"account": {"type": "string"}}, "required": ["account"]},
    },
}


def call(**arguments: object) -> Message:
    return Message("assistant", "", tool_calls=(ToolCall("get_balance", arguments, id="call00001"),))


def result(text: str) -> Message:
    return Message("tool", text, tool_call_id="call00001", name="get_balance")


def as_dicts(messages: tuple[Message, ...], *, json_arguments: bool = False) -> list[dict]:
    """The same conversation as users of transformers write it."""
    import json

    rows = []
    for message in messages:
        row: dict = {"role": message.role, "content": message.content}
        if message.tool_calls:
            row["tool_calls"] = [
                {
                    "type": "function",
                    "id": one.id,
                    "function": {
                        "name": one.name,
                        "arguments": json.dumps(dict(one.arguments), ensure_ascii=False) if json_arguments else dict(one.arguments),
                    },
                }
                for one in message.tool_calls
            ]
        if message.tool_call_id:
            row["tool_call_id"] = message.tool_call_id
        if message.name:
            row["name"] = message.name
        if message.reasoning is not None:
            row["reasoning_content"] = message.reasoning
        rows.append(row)
    return rows
