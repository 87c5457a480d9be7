"""Drills: every failure that can be provoked is provoked, and has to be caught."""

from posttrain.drills import consent, contaminated, masks, policy_text, template_drift
from posttrain.drills.harness import DRILLS, Drill, DrillReport, Found, drill, drill_lines, run_drill

__all__ = ["DRILLS", "Drill", "DrillReport", "Found", "drill", "drill_lines", "run_drill"]
_REGISTERED = (consent, contaminated, masks, policy_text, template_drift)
