"""What a recipe's output folder holds of earlier forms of the recipe, and its removal."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from posttrain.errors import ConfigError
from posttrain.recipes.display import SilentDisplay
from posttrain.recipes.origins import run_store
from posttrain.recipes.recipe import LoadedRecipe
from posttrain.recipes.run import run_recipe
from posttrain.recipes.steps import STARTED_FILE, exclusive

STEP_FOLDER = re.compile(r"\d{2,}-.+")


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder that no step of the recipe refers to, and what it takes on disk."""

    folder: Path
    num_bytes: int


def prune_run(loaded: LoadedRecipe, out: str | Path, *, dry_run: bool = False) -> tuple[Leftover, ...]:
    """Remove the folders of steps the recipe does not have any more and caches none of its steps uses; returns what they were.

    Folders of its present steps stay, finished or not, and so do results and report. ``dry_run``: remove nothing. Raises
    ConfigError for a folder that is in use, or that holds no step of this recipe as it is now.
    """
    root = Path(out)
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder, so there is nothing to remove", hint="name the recipe's output folder with --out")
    plan = run_recipe(loaded, root, display=SilentDisplay(), dry_run=True)
    if all(step.state == "run" for step in plan.steps):
        raise ConfigError(
            f"{root} holds no step of {loaded.path.name} as it is now: nothing is removed", hint="check --out, or run the recipe first"
        )
    present = {step.folder for step in plan.steps}
    with exclusive(root):
        steps = [folder for folder in root.iterdir() if STEP_FOLDER.fullmatch(folder.name) and (folder / STARTED_FILE).is_file()]
        caches = [folder for folder in (*root.glob("cache/reference/*"), *root.glob("cache/answers-*")) if folder.is_dir()]
        old = sorted(folder for folder in (*steps, *caches) if folder not in present | plan.caches and not folder.is_symlink())
        found = tuple(Leftover(folder, _size(folder)) for folder in old)
        store = run_store(root)
        for leftover in found if not dry_run else ():
            if store.path.is_file():
                store.discard(leftover.folder)
            shutil.rmtree(leftover.folder)
    return found


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
