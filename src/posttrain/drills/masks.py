"""9: a mask boundary that is off by one, and rows none of whose tokens train."""

import re
from pathlib import Path

from posttrain.drills.harness import Found, drill
from posttrain.drills.setup import conversations, fine_tune, tiny_model, write_rows


@drill(
    "mask-boundary",
    number=9,
    fault="the generation prompt ends one character after the place where answers begin",
    expects=r"cannot be masked exactly.*does not begin with the prompt the model is given",
)
def mask_boundary(folder: Path, faulty: bool) -> Found:
    """A template whose prompt for answering has a blank that its answers do not begin behind: every boundary would be one token off."""
    model = tiny_model(folder)
    template = model / "chat_template.jinja"
    if faulty:
        text = template.read_text(encoding="utf-8")
        template.write_text(re.sub(r"assistant(\\n|\n)'", r"assistant\1 '", text), encoding="utf-8")
    fine_tune(folder, model, write_rows(folder / "rows.jsonl", conversations()))
    return Found("")


@drill(
    "nothing-supervised",
    number=9,
    fault="every assistant turn carries weight 0, so no token trains",
    expects=r"\d+ of \d+ rows that train nothing",
)
def nothing_supervised(folder: Path, faulty: bool) -> Found:
    """An export that wrote ``weight: 0`` on the turns to be learned."""
    rows = conversations()
    for row in rows if faulty else ():
        row["messages"][-1]["weight"] = 0
    data = write_rows(folder / "rows.jsonl", rows)
    fine_tune(folder, tiny_model(folder), data)
    return Found("")
