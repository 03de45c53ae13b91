"""Measuring: one row a test example, and summaries with intervals."""

from withstand.evaluation.certificate import Certificate, default_attack, plan_certificates
from withstand.evaluation.evaluate import Evaluation, evaluate, plan_attacks, require_sizes
from withstand.evaluation.extend import extend_evaluation
from withstand.evaluation.extension import FormerEvaluation
from withstand.evaluation.noise import NoiseCurve
from withstand.evaluation.rows import AttackPlan, column, score_batch
from withstand.evaluation.summary import share, summarise

__all__ = [
    "AttackPlan",
    "Certificate",
    "Evaluation",
    "FormerEvaluation",
    "NoiseCurve",
    "column",
    "default_attack",
    "evaluate",
    "extend_evaluation",
    "plan_attacks",
    "plan_certificates",
    "require_sizes",
    "score_batch",
    "share",
    "summarise",
]
