"""Read a recipe, order its steps, reuse, resume."""

from posttrain.recipes.display import SilentDisplay, TerminalDisplay
from posttrain.recipes.prune import Leftover, prune_run
from posttrain.recipes.recipe import LoadedRecipe, Recipe, StartModel, TinyStart, load_recipe
from posttrain.recipes.report import outcome_text, write_recipe_report
from posttrain.recipes.run import RunOutcome, run_recipe
from posttrain.recipes.starter_project import write_starter
from posttrain.recipes.steps import Display, StepResult, Steps

__all__ = [
    "Display",
    "Leftover",
    "LoadedRecipe",
    "Recipe",
    "RunOutcome",
    "SilentDisplay",
    "StartModel",
    "StepResult",
    "Steps",
    "TerminalDisplay",
    "TinyStart",
    "load_recipe",
    "outcome_text",
    "prune_run",
    "run_recipe",
    "write_recipe_report",
    "write_starter",
]
