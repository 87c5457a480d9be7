"""Which of posttrain's own files a finished step depends on."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import posttrain
from posttrain.recipes.origins import NOT_DECIDING, deciding_versions

PACKAGE = Path(posttrain.__file__).parent
HASHES = "from posttrain.lineage import source_hash; print(*(source_hash(tuple(left.split())) for left in {left!r}))"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the sources, as another checkout has them."""
    folder = tmp_path_factory.mktemp("src")
    shutil.copytree(PACKAGE, folder / "posttrain", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def hashes(copy):
    script = HASHES.format(left=[" ".join(left) for left in NOT_DECIDING.values()])
    done = subprocess.run([sys.executable, "-B", "-c", script], env={"PYTHONPATH": str(copy)}, capture_output=True, text=True, check=True)
    return dict(zip(NOT_DECIDING, done.stdout.split(), strict=True))


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("training/loop.py", {"model", "evaluation", "verdict"}),
        ("models/kernels/forest_attention.cpp", {"model", "evaluation", "verdict"}),
        ("chat/templates/chatml-tools.jinja", {"model", "evaluation", "verdict"}),
        ("evaluation/summary.py", {"evaluation", "verdict"}),
        ("release/verdict.py", {"verdict"}),
        ("cli/run.py", set()),
        ("recipes/report.py", set()),
    ],
)
def test_an_edit_reaches_the_steps_that_stand_on_the_file_and_no_others(copy, file, changes):
    before, text = hashes(copy), (copy / "posttrain" / file).read_bytes()
    (copy / "posttrain" / file).write_bytes(text + b"\n")
    after = hashes(copy)
    (copy / "posttrain" / file).write_bytes(text)
    assert {made for made in after if after[made] != before[made]} == changes


def test_nothing_that_makes_a_model_imports_what_its_key_leaves_out():
    left_out = [name for name in NOT_DECIDING["model"] if name != "lineage"]  # records what was made, decides nothing
    floors = "|".join(name for name in left_out if "/" not in name)
    imports = re.compile(rf"^\s*(?:from|import) posttrain\.(?:{floors})\b", re.MULTILINE)
    for file in PACKAGE.rglob("*.py"):
        place = file.relative_to(PACKAGE)
        if place.parts[0] not in (*left_out, "recipes", "__main__.py"):
            assert not imports.search(file.read_text(encoding="utf-8")), place


def test_the_libraries_that_decide_numbers_are_in_every_key():
    assert {"code", "torch", "transformers", "tokenizers", "numpy", "peft"} <= set(deciding_versions())
