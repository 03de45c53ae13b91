from __future__ import annotations

import math

import torch
from torch import Tensor

from withstand.attacks.worst import ON_TARGET, WRONG, Worst, ranks


def _row(value: float) -> Tensor:
    return torch.full((1, 2, 2), value)


def _worst(loss: list[float], rank: list[int]) -> Worst:
    return Worst(torch.zeros(len(loss), 2, 2), torch.tensor(loss), torch.tensor(rank))


def _assert_holds(worst: Worst, value: float, loss: float) -> None:
    assert torch.equal(worst.images, _row(value))
    assert torch.equal(worst.loss, torch.tensor([loss]))
    assert (worst.rank == WRONG).all()


def test_worst_begins_with_copies_of_its_images() -> None:
    images, loss = torch.rand(2, 3), torch.tensor([1.0, 2.0])
    worst = Worst.of(images, torch.tensor([0, WRONG]), loss)
    assert worst.rank.tolist() == [0, WRONG]
    worst.update(torch.tensor([0]), torch.ones(1, 3), torch.tensor([WRONG]), torch.tensor([5.0]))
    assert loss.tolist() == [1.0, 2.0]
    assert not (images == 1).all(dim=1).any()


def test_worst_takes_fooled_before_not_fooled_whatever_the_loss() -> None:
    worst = _worst([9.0], [0])
    worst.update(torch.tensor([0]), _row(1), torch.tensor([WRONG]), torch.tensor([0.1]))
    _assert_holds(worst, 1.0, 0.1)
    worst.update(torch.tensor([0]), _row(2), torch.tensor([0]), torch.tensor([99.0]))
    _assert_holds(worst, 1.0, 0.1)


def test_worst_takes_the_larger_loss_among_equals_and_leaves_a_tie() -> None:
    for rank in (0, WRONG):
        worst = _worst([1.0], [rank])
        for value, loss, held in ((1, 0.5, 0), (2, 1.5, 2), (3, 1.5, 2), (4, 2.0, 4)):
            worst.update(torch.tensor([0]), _row(value), torch.tensor([rank]), torch.tensor([loss]))
            assert worst.images[0, 0, 0] == held
        assert worst.loss[0] == 2.0
        assert worst.rank[0] == rank


def test_worst_changes_only_the_examples_of_the_index() -> None:
    worst = _worst([0.0, 0.0, 0.0], [0, 0, 0])
    images = torch.cat([_row(1), _row(2)])
    worst.update(torch.tensor([2, 0]), images, torch.tensor([WRONG, 0]), torch.tensor([1.0, 1.0]))
    assert worst.images[:, 0, 0].tolist() == [2, 0, 1]
    assert worst.loss.tolist() == [1, 0, 1]
    assert worst.rank.tolist() == [0, 0, WRONG]


def test_worst_never_takes_a_loss_that_is_no_number_for_one_that_is() -> None:
    worst = _worst([1.0], [0])
    worst.update(torch.tensor([0]), _row(1), torch.tensor([0]), torch.tensor([float("nan")]))
    assert worst.loss[0] == 1.0
    assert not worst.images.any()


def test_worst_by_loss_alone_does_not_go_by_the_answer() -> None:
    worst = Worst(torch.zeros(1, 2, 2), torch.tensor([9.0]), torch.tensor([0]), by_loss=True)
    worst.update(torch.tensor([0]), _row(1), torch.tensor([WRONG]), torch.tensor([0.1]))
    assert not worst.images.any()
    worst.update(torch.tensor([0]), _row(2), torch.tensor([0]), torch.tensor([9.5]))
    _assert_holds(worst, 2.0, 9.5)


def test_worst_holds_no_answer_only_until_the_model_is_misled() -> None:
    index = torch.tensor([0])
    worst = Worst.of(torch.zeros(1, 2, 2), torch.tensor([1]), torch.tensor([float("nan")]))
    worst.update(index, _row(1), torch.tensor([0]), torch.tensor([9.0]))
    assert not worst.images.any()  # what the model gets right is not worse
    worst.update(index, _row(2), torch.tensor([WRONG]), torch.tensor([0.1]))
    _assert_holds(worst, 2.0, 0.1)


def test_ranks_of_answers_without_and_with_targets() -> None:
    answers, labels = torch.tensor([0, -1, 1, 2, 0]), torch.zeros(5, dtype=torch.int64)
    assert ranks(answers, labels).tolist() == [0, 1, WRONG, WRONG, 0]
    targets = torch.tensor([1, 1, 1, 1, 0])  # the last is of its own class, and so cannot be reached
    assert ranks(answers, labels, targets).tolist() == [0, 1, ON_TARGET, WRONG, 0]


def test_worst_by_loss_alone_takes_any_number_for_none() -> None:
    worst = Worst(torch.zeros(1, 2, 2), torch.tensor([-math.inf]), torch.tensor([WRONG]), by_loss=True)
    worst.update(torch.tensor([0]), _row(1), torch.tensor([0]), torch.tensor([0.1]))
    _assert_holds(worst, 1.0, 0.1)
