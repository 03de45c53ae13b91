"""A net of which it is known how far its margins decrease, to check certificates by.

Bounds of a trained net are so far from what attacks reach that one which is too high by a tenth is often not
seen. Here every domain is exact, so the slightest excess shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from withstand.certificates.certify import Certifier
from withstand.core import norms
from withstand.types import CertificateError

RADIUS = 0.3
"""How far the margin of the grey image reaches; it decreases by as much as epsilon grows."""

_GREY = 0.5
_BUDGETS = (0.05, 0.15, 0.25)
_ROUNDING = 1e-6


def known_net(num_pixels: int, norm: float) -> nn.Module:
    """A net that gives the grey image class 0 by a margin of 0.3, which decreases by exactly epsilon.

    One hidden unit that is always on: of one pixel for l1 and l2, where a ball and the box around it are
    equally far along an axis; of the mean of all for linf, where they are along the diagonal.

    Args:
        num_pixels: Of an image, with its channels.
        norm: 1, 2 or inf.
    """
    unit, answer = nn.Linear(num_pixels, 1), nn.Linear(1, 2)
    with torch.no_grad():
        unit.weight.fill_(1 / num_pixels if norm == math.inf else 0.0)
        if norm != math.inf:
            unit.weight[0, num_pixels // 2] = 1.0
        unit.bias.fill_(1 - _GREY)
        answer.weight.copy_(torch.tensor([[1.0], [0.0]]))
        answer.bias.copy_(torch.tensor([0.0, 1 - RADIUS]))
    return nn.Sequential(nn.Flatten(), unit, nn.ReLU(), answer)


def require_known_answers(
    name: str, norm: float, certifier_of: Callable[[nn.Module], Certifier], image: Tensor
) -> None:
    """Accepts a way to certify that certifies no more than is true of a known net.

    Args:
        name: Of the certificate, for the error.
        norm: 1, 2 or inf.
        certifier_of: Certifies a net that way.
        image: Of whose shape the net's are, on whatever device.

    Raises:
        CertificateError: a bound or a radius is too large.
    """
    net = known_net(image.numel(), norm).to(image.device)
    certifier = certifier_of(net)
    grey = torch.full_like(image, _GREY)[None]
    label = torch.zeros(1, dtype=torch.int64, device=image.device)
    for epsilon in _BUDGETS:
        margin = float(certifier.certify(grey, label, norm=norm, epsilon=epsilon).margin[0])
        _require_at_most(margin, RADIUS - epsilon, f"{name} bounds the margin within epsilon {epsilon:g}")
    radius = float(certifier.radius(grey, label, norm=norm)[0])
    _require_at_most(radius, RADIUS, f"{name} finds the {norms.label(norm)} radius")


def _require_at_most(bound: float, true: float, what: str) -> None:
    if bound > true + _ROUNDING:
        raise CertificateError(
            f"{what} of a net where it is known to be {true:.6g} by {bound:.6g}, which is too much. A "
            "certificate that is wrong once proves nothing, so the evaluation stops. Most likely a rule of "
            "withstand.domains.register is not sound; any other cause is a defect of this library, to be "
            "reported."
        )
