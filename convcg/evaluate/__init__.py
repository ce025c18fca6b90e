"""Evaluation: the exact full-catalogue recall of a bundle on held-out conversions, beside the baselines.

The bundle is asked through the same `Retriever` that the service uses, one `Request` a held-out conversion: what is
measured is what is served, filters and policies included.
"""

from convcg.evaluate.config import EvaluateConfig
from convcg.evaluate.evaluation import Evaluation, evaluate
from convcg.evaluate.gate import check_gate
from convcg.evaluate.queries import requests, test_queries

__all__ = ["EvaluateConfig", "Evaluation", "check_gate", "evaluate", "requests", "test_queries"]
