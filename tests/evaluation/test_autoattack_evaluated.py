"""AutoAttack within an evaluation against the package itself: at every budget, no example withrobust more."""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.attacks import AutoAttack, Cascade
from withstand.core import norms
from withstand.core.dataset_info import DatasetInfo
from withstand.data import Dataset, Split
from withstand.evaluation import Predictor, evaluate
from withstand.evaluation.attacking import attack_batch
from withstand.evaluation.meters import Attacks
from withstand.evaluation.plans import AttackPlan
from withstand.types import Batch

pyautoattack: Any = pytest.importorskip("pyautoattack")

EPSILONS = {2.0: [0.5, 0.52, 0.54, 0.56], math.inf: [0.06, 0.065, 0.07, 0.075, 0.08]}
QUERIES = {2.0: 30, math.inf: 5}  # so few that it is luck who is broken


@cache
def _trained() -> tuple[nn.Sequential, Dataset]:
    digits = load_digits()
    images = torch.tensor(digits.images).mul(15.9375).round().to(torch.uint8).unsqueeze(1)
    split = Split(images, torch.tensor(digits.target, dtype=torch.int64))
    train, test = split.subset(torch.arange(1200)), split.subset(torch.arange(1400, 1700))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for step in range(60):
            rows = slice(20 * step, 20 * step + 20)
            optimizer.zero_grad()
            logits = model(train.images[rows].float() / 255)
            F.cross_entropy(logits, train.labels[rows]).backward()
            optimizer.step()
    info = DatasetInfo("small digits", (1, 8, 8), list("0123456789"), [0.3], [0.4])
    return model.eval(), Dataset(info, train=train, validation=test, test=test)


def _official(model: nn.Module, norm: float, epsilon: float, images: Tensor, labels: Tensor) -> Tensor:
    name = {2.0: "L2", math.inf: "Linf"}[norm]
    official = pyautoattack.AutoAttack(model, norm=name, eps=epsilon, seed=0, version="custom")
    official.attacks_to_run = ["square"]
    official.square.n_queries = QUERIES[norm]
    logger = logging.getLogger("auto-attack")
    with torch.random.fork_rng(devices=[]):
        logger.disabled = True
        try:
            adversarial: Tensor = official.run_standard_evaluation(images, labels)[0]
        finally:
            logger.disabled = False
    return adversarial


@pytest.mark.parametrize("norm", EPSILONS, ids=norms.label)
def test_autoattack_breaks_at_every_budget_all_that_the_package_breaks(norm: float) -> None:
    model, dataset = _trained()
    images, labels = dataset.test.images.float() / 255, dataset.test.labels
    square = AutoAttack(norm, part="square", num_queries=QUERIES[norm])
    meter = Attacks([Cascade([square], "all")], EPSILONS[norm])
    rows = evaluate(model, dataset, [meter], batch_size=500).rows
    for epsilon in EPSILONS[norm]:
        adversarial = _official(model, norm, epsilon, images, labels)
        with torch.no_grad():
            robust = (model(adversarial).argmax(dim=1) == labels).numpy()
        ours = rows[f"all-{norms.label(norm)}@{epsilon:g}"].to_numpy(dtype=bool)
        assert 0 < robust.sum() < len(robust)
        assert not np.flatnonzero(ours & ~robust).tolist()


def test_attack_batch_holds_the_image_of_the_smallest_budget_that_broke() -> None:
    model, dataset = _trained()
    batch = Batch(dataset.test.images.float() / 255, dataset.test.labels)
    plan = AttackPlan(AutoAttack(part="square", num_queries=5).for_evaluation(), [0.1, 0.2], "square")
    predictor = Predictor.of(model)
    scores = attack_batch(predictor, batch, predictor.answer(*batch), [plan])
    broken = torch.from_numpy(scores.columns["square@0.1"] == 0) & (
        predictor.predict(batch.images) == batch.labels
    )
    distance = (scores.fooling["square"] - batch.images).flatten(1).abs().amax(dim=1)
    assert broken.any()
    assert (distance[broken] <= 0.1 + 1e-6).all()
    assert (distance > 0.11).any()
