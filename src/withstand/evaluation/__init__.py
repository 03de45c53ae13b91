"""Measuring: one row a test example, and summaries with intervals."""

from withstand.evaluation.attacking import Memory, attack_batch
from withstand.evaluation.certificate import Certificate, default_attack, plan_certificates
from withstand.evaluation.corruptions import Corruptions
from withstand.evaluation.evaluate import evaluate, plan_attacks, require_sizes
from withstand.evaluation.extend import extend_evaluation
from withstand.evaluation.extension import FormerEvaluation
from withstand.evaluation.judge import Judge, random_judge
from withstand.evaluation.measuring import Evaluation
from withstand.evaluation.noise import NoiseCurve
from withstand.evaluation.protocols import Protocol, SebrProtocol
from withstand.evaluation.rows import AttackPlan, column
from withstand.evaluation.sampling import Sampling
from withstand.evaluation.suite import Suite, plan_suite, suite_budgets
from withstand.evaluation.summary import share, summarise
from withstand.evaluation.uncertainty import Entropies, Uncertainty, auroc, calibration_error, entropies
from withstand.evaluation.uncertainty_meter import require_others

__all__ = [
    "AttackPlan",
    "Certificate",
    "Corruptions",
    "Entropies",
    "Evaluation",
    "FormerEvaluation",
    "Judge",
    "Memory",
    "NoiseCurve",
    "Protocol",
    "Sampling",
    "SebrProtocol",
    "Suite",
    "Uncertainty",
    "attack_batch",
    "auroc",
    "calibration_error",
    "column",
    "default_attack",
    "entropies",
    "evaluate",
    "extend_evaluation",
    "plan_attacks",
    "plan_certificates",
    "plan_suite",
    "random_judge",
    "require_others",
    "require_sizes",
    "share",
    "suite_budgets",
    "summarise",
]
