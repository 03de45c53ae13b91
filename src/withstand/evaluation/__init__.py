"""Measuring: one row a test example, and summaries with intervals."""

from withstand.evaluation.evaluate import Evaluation, evaluate, plan_attacks, require_sizes
from withstand.evaluation.rows import AttackPlan, column, score_batch
from withstand.evaluation.summary import share, summarise

__all__ = [
    "AttackPlan",
    "Evaluation",
    "column",
    "evaluate",
    "plan_attacks",
    "require_sizes",
    "score_batch",
    "share",
    "summarise",
]
