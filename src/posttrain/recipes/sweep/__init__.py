"""A preference stage over a grid of beta and learning rate: target gain against drift."""

from posttrain.recipes.sweep.measure import Measurement, SampleSettings, measure
from posttrain.recipes.sweep.report import sweep_text, write_page
from posttrain.recipes.sweep.run import SweepOptions, run_sweep
from posttrain.recipes.sweep.source import SweepSource, open_source

__all__ = [
    "Measurement",
    "SampleSettings",
    "SweepOptions",
    "SweepSource",
    "measure",
    "open_source",
    "run_sweep",
    "sweep_text",
    "write_page",
]
