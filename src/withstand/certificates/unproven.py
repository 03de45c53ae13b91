"""Attacks on what a certificate leaves open: what is proven is not attacked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.attack import AttackAround
from withstand.bayes.layer import require_certain
from withstand.certificates.bounding import Method, require_method
from withstand.certificates.certify import Certifier
from withstand.domains.sets.input_sets import certified_norm


@dataclass(frozen=True)
class Unproven(AttackAround):
    """Another attack, on the images that a certificate does not prove at the attack's own budget.

    No image within the budget changes what is proven, so an attack on it is time spent for nothing: of a
    network that was trained for certificates most of it. What is proven comes back as it was given. An error
    in a certificate is then not found by this attack, which an attack on all images would have found.

    Args:
        attack: What to run, in a norm that is certified: 1, 2 or inf.
        method: What to prove with, as of ``certify``.

    Raises:
        ValueError: there is no such method, or the attack's norm is none that is certified.
        ModelError: when called: the model has random weights, or bounds cannot be had for it.
    """

    method: Method = "box"

    def __post_init__(self) -> None:
        super().__post_init__()
        certified_norm("the norm of an attack on what is not proven", self.norm)
        require_method(self.method)

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        require_certain(model, to="prove what need not be attacked")
        norm, epsilon = certified_norm("norm", self.norm), self.epsilon_at(progress)
        certifier = Certifier(model, method=self.method)
        is_open = ~certifier.certify(images, labels, norm=norm, epsilon=epsilon).certified
        moved = images.detach().clone()
        if is_open.any():
            moved[is_open] = self.attack.perturb(model, images[is_open], labels[is_open], progress=progress)
        return moved

    @property
    @override
    def name(self) -> str:
        return f"unproven-{self.attack.name}"

    @override
    def describe(self) -> str:
        return f"{self.attack.describe()}, on what is not proven by {self.method} at the same epsilon"
