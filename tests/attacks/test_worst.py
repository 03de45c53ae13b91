from __future__ import annotations

import math

import torch
from torch import Tensor

from withstand.attacks.worst import Worst


def _row(value: float) -> Tensor:
    return torch.full((1, 2, 2), value)


def _worst(loss: list[float], fooled: list[bool]) -> Worst:
    return Worst(torch.zeros(len(loss), 2, 2), torch.tensor(loss), torch.tensor(fooled))


def _assert_holds(worst: Worst, value: float, loss: float) -> None:
    assert torch.equal(worst.images, _row(value))
    assert torch.equal(worst.loss, torch.tensor([loss]))
    assert worst.fooled.all()


def test_worst_begins_with_copies_of_its_images() -> None:
    images, loss = torch.rand(2, 3), torch.tensor([1.0, 2.0])
    worst = Worst.of(images, torch.tensor([0, 0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), loss)
    assert worst.fooled.tolist() == [False, True]
    worst.update(torch.tensor([0]), torch.ones(1, 3), torch.tensor([True]), torch.tensor([5.0]))
    assert loss.tolist() == [1.0, 2.0]
    assert not (images == 1).all(dim=1).any()


def test_worst_takes_fooled_before_not_fooled_whatever_the_loss() -> None:
    worst = _worst([9.0], [False])
    worst.update(torch.tensor([0]), _row(1), torch.tensor([True]), torch.tensor([0.1]))
    _assert_holds(worst, 1.0, 0.1)
    worst.update(torch.tensor([0]), _row(2), torch.tensor([False]), torch.tensor([99.0]))
    _assert_holds(worst, 1.0, 0.1)


def test_worst_takes_the_larger_loss_among_equals_and_leaves_a_tie() -> None:
    for fooled in (False, True):
        worst = _worst([1.0], [fooled])
        for value, loss, held in ((1, 0.5, 0), (2, 1.5, 2), (3, 1.5, 2), (4, 2.0, 4)):
            worst.update(torch.tensor([0]), _row(value), torch.tensor([fooled]), torch.tensor([loss]))
            assert worst.images[0, 0, 0] == held
        assert worst.loss[0] == 2.0
        assert worst.fooled[0] == fooled


def test_worst_changes_only_the_examples_of_the_index() -> None:
    worst = _worst([0.0, 0.0, 0.0], [False, False, False])
    images = torch.cat([_row(1), _row(2)])
    worst.update(torch.tensor([2, 0]), images, torch.tensor([True, False]), torch.tensor([1.0, 1.0]))
    assert worst.images[:, 0, 0].tolist() == [2, 0, 1]
    assert worst.loss.tolist() == [1, 0, 1]
    assert worst.fooled.tolist() == [False, False, True]


def test_worst_never_takes_a_loss_that_is_no_number_for_one_that_is() -> None:
    worst = _worst([1.0], [False])
    worst.update(torch.tensor([0]), _row(1), torch.tensor([False]), torch.tensor([float("nan")]))
    assert worst.loss[0] == 1.0
    assert not worst.images.any()


def test_worst_by_loss_alone_does_not_go_by_the_answer() -> None:
    worst = Worst(torch.zeros(1, 2, 2), torch.tensor([9.0]), torch.tensor([False]), by_loss=True)
    worst.update(torch.tensor([0]), _row(1), torch.tensor([True]), torch.tensor([0.1]))
    assert not worst.images.any()
    worst.update(torch.tensor([0]), _row(2), torch.tensor([False]), torch.tensor([9.5]))
    _assert_holds(worst, 2.0, 9.5)


def test_worst_holds_no_answer_only_until_the_model_is_misled() -> None:
    labels, nan = torch.tensor([0]), float("nan")
    worst = Worst.of(torch.zeros(1, 2, 2), labels, torch.tensor([[nan, 1.0]]), torch.tensor([nan]))
    assert worst.fooled.all()
    assert not worst.misled.any()
    worst.update(labels, _row(1), torch.tensor([False]), torch.tensor([9.0]))
    assert not worst.images.any()  # what the model gets right is not worse
    worst.update(labels, _row(2), torch.tensor([True]), torch.tensor([0.1]))
    _assert_holds(worst, 2.0, 0.1)
    assert worst.misled.all()


def test_worst_by_loss_alone_takes_any_number_for_none() -> None:
    worst = Worst(torch.zeros(1, 2, 2), torch.tensor([-math.inf]), torch.tensor([True]), by_loss=True)
    worst.update(torch.tensor([0]), _row(1), torch.tensor([False]), torch.tensor([0.1]))
    _assert_holds(worst, 1.0, 0.1)
