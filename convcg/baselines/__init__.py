"""Baselines that a trained model has to beat, behind one interface: a score for every pin, for each query."""

from convcg.baselines.interface import Baseline, Histories, TrainingLog
from convcg.baselines.registry import BASELINES, build

__all__ = ["BASELINES", "Baseline", "Histories", "TrainingLog", "build"]
