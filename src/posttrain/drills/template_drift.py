"""7: the weights are the same, the template they are served with is not."""

from pathlib import Path

from posttrain.drills.harness import Found, drill
from posttrain.drills.setup import PRECISION, conversations, fine_tune, tiny_model, write_rows
from posttrain.generation import LocalGenerator


@drill(
    "template-drift",
    number=7,
    fault="the trained model is served with another role marker in its chat template",
    expects=r"made under another chat contract.*changed: template.*first differing token",
)
def template_drift(folder: Path, faulty: bool) -> Found:
    """Train, change the template of the served folder, open it for serving."""
    model = fine_tune(folder, tiny_model(folder), write_rows(folder / "rows.jsonl", conversations())).model
    template = model / "chat_template.jinja"
    if faulty:
        template.write_text(
            template.read_text(encoding="utf-8").replace("message['role']", "'[' + message['role'] + ']'"), encoding="utf-8"
        )
    LocalGenerator.load(model, **PRECISION)
    return Found("")
