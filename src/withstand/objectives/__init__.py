"""What training minimises."""

from withstand.loss.terms import Objective, Penalty, Sum, Weighted
from withstand.objectives.adversarial import Adversarial
from withstand.objectives.certified import Certified
from withstand.objectives.cross_entropy import CrossEntropy, NoisyCrossEntropy
from withstand.objectives.every_layer import Cubature, EveryLayer, ExpectedLoss, MeanField, OfMean
from withstand.objectives.first_activation import FirstActivation
from withstand.objectives.free import FreeAdversarial
from withstand.objectives.gaussian_expectation import GaussianExpectation
from withstand.objectives.label_loss import LabelLoss
from withstand.objectives.mart import MART
from withstand.objectives.propagation import Propagation
from withstand.objectives.trades import TRADES
from withstand.objectives.variational import Variational
from withstand.objectives.weight_perturbation import WeightPerturbation
from withstand.objectives.worst_losses import (
    AnnealedCrossEntropy,
    BoostedCrossEntropy,
    CappedCrossEntropy,
    SymmetricCrossEntropy,
    WorstCrossEntropy,
    WorstLoss,
)

__all__ = [
    "MART",
    "TRADES",
    "Adversarial",
    "AnnealedCrossEntropy",
    "BoostedCrossEntropy",
    "CappedCrossEntropy",
    "Certified",
    "CrossEntropy",
    "Cubature",
    "EveryLayer",
    "ExpectedLoss",
    "FirstActivation",
    "FreeAdversarial",
    "GaussianExpectation",
    "LabelLoss",
    "MeanField",
    "NoisyCrossEntropy",
    "Objective",
    "OfMean",
    "Penalty",
    "Propagation",
    "Sum",
    "SymmetricCrossEntropy",
    "Variational",
    "WeightPerturbation",
    "Weighted",
    "WorstCrossEntropy",
    "WorstLoss",
]
