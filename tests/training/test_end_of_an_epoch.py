from __future__ import annotations

import pytest
import torch

from withstand.training.collapse import EpochMeter


@pytest.mark.parametrize("last_share", [1.0, 0.25, 1 / 128])
def test_means_over_the_end_of_an_epoch_are_over_its_images(last_share: float) -> None:
    meter = EpochMeter(10, torch.device("cpu"), last_share=last_share)
    for step in range(10):
        terms = {"accuracy": torch.tensor(step / 10)} | ({"late": torch.tensor(3.0)} if step == 9 else {})
        meter.record(step, torch.tensor(1.0), terms)
    means = meter.tail_means()
    assert means["accuracy"] == pytest.approx((0.8 + 0.9 * last_share) / (1 + last_share))
    assert (means["loss"], means["late"]) == pytest.approx((1.0, 3.0))


def test_images_of_the_end_of_an_epoch_are_those_of_its_last_steps() -> None:
    meter = EpochMeter(10, torch.device("cpu"))
    assert meter.tail_of(torch.arange(43), 4).tolist() == list(range(32, 40))  # the rest was dropped
    assert meter.tail_of(torch.arange(38), 4).tolist() == list(range(32, 38))
