"""A tiny model that learned from seven trajectories to ask for a lamp's colour and to answer with what it reads; its world."""

import torch

from posttrain.chat import ChatContract, template_text
from posttrain.config.files import atomic_directory
from posttrain.episodes import EpisodeTask, ToolboxEnvironment
from posttrain.models.tiny import build_tiny_model, train_tokenizer
from posttrain.records import Demonstration, Message, ToolCall
from posttrain.tools import Caller, Toolbox, tool
from posttrain.worlds import worlds

ROOMS, COLOURS = ("hall", "bath", "loft"), ("red", "green")
"""Every lamp is seen in both colours: a model that is right about all of them has read the result."""
PAIRS = [(room, colour) for room in ROOMS for colour in COLOURS]
CONTENT_WEIGHT = 10.0
"""Rooms and colours count this much more than the frame of a call in training, which is the same in every row."""


def lamp_tool(lamps, declared_version="1"):
    """One tool over a mapping of room to colour."""

    @tool(declared_version=declared_version)
    def get_lamp(room: str) -> str:
        """Colour of a lamp."""
        return lamps[room]

    return get_lamp


SIGNATURES = (lamp_tool({}).signature,)


class House(ToolboxEnvironment):
    """The lamps of one house."""

    def __init__(self, lamps, declared_version="1"):
        super().__init__(Toolbox([lamp_tool(lamps, declared_version)], caller=Caller("owner", "house")))
        self._lamps = lamps

    def outcome(self, messages):
        return {"lamps": self._lamps, "num_turns": len(messages)}


class Houses:
    """``{"name": "houses", "lamps": {room: colour}}``; a house on fire cannot be entered."""

    name, version = "houses", "1"

    def open(self, world, declared_version="1"):
        if world.get("fire"):
            raise OSError("the house is on fire")
        return House(world["lamps"], declared_version)


HOUSES = Houses()
if "houses" not in worlds:
    worlds.register("houses")(HOUSES)


def question(room):
    return Message("user", f"colour of {room}?")


def tasks(pairs=PAIRS):
    """One task a pair, each in a house of its own."""
    return [
        EpisodeTask(f"{room}-{colour}", (question(room),), SIGNATURES, lambda lamps={room: colour}: House(lamps)) for room, colour in pairs
    ]


def demonstrations():
    turns = [
        (
            question(room),
            Message("assistant", "", (ToolCall("get_lamp", {"room": room}),)),
            Message("tool", colour),
            Message("assistant", colour),
        )
        for room, colour in PAIRS
    ]
    turns.append((Message("user", "hello"), Message("assistant", "hello")))
    return [Demonstration(messages, SIGNATURES) for messages in turns]


def write_tool_model(folder, *, seed=3):
    """Train a tokenizer and the model until it knows the trajectories; save both with the template."""
    rows = demonstrations()
    texts = [message.content for row in rows for message in row.messages] + [template_text("chatml-tools"), str(SIGNATURES)] * 3
    tokenizer = train_tokenizer(texts, vocab_size=600)
    tokenizer.chat_template = template_text("chatml-tools")
    sequences = list(ChatContract(tokenizer).supervise_many(rows))
    ids = torch.zeros(len(rows), max(map(len, sequences)), dtype=torch.long)
    counts = torch.zeros_like(ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(sequence.input_ids)
        counts[row, : len(sequence)] = torch.from_numpy(sequence.completion_mask)
    targets = ids[:, 1:][counts[:, 1:]]
    content = torch.tensor([token for word in ROOMS + COLOURS for token in tokenizer.encode(word, add_special_tokens=False)])
    weights = torch.where(torch.isin(targets, content), CONTENT_WEIGHT, 1.0)
    model = build_tiny_model(tokenizer, seed, hidden=64, max_length=1024)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, weight_decay=0.0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 6e-3 * min(1.0, (step + 1) / 20)
        states = model.model(input_ids=ids).last_hidden_state[:, :-1][counts[:, 1:]]
        loss = torch.nn.functional.cross_entropy(model.lm_head(states), targets, reduction="none")
        if float(loss.detach().max()) < 0.2:  # every token of every trajectory has probability 0.8 or more
            break
        optimizer.zero_grad()
        ((loss * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with atomic_directory(folder) as place:
        model.eval().save_pretrained(place)
        tokenizer.save_pretrained(place)
    return folder
