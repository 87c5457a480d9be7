"""Levers: read the evidence of a run, name the failure, the first lever, and what not to rush into."""

from posttrain.release.levers import acting, behaviour, feedback, measurement, training
from posttrain.release.levers.catalogue import RULES, Diagnosis, Finding, diagnose

__all__ = ["RULES", "Diagnosis", "Finding", "diagnose"]
_REGISTERED = (acting, behaviour, feedback, measurement, training)
