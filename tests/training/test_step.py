"""A step in parts, where memory runs out, in other memory formats and arithmetic, and compiled."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import withstand as ws
from withstand.core.batch_shares import Share, filled, largest_of_all, own_share, taking
from withstand.objectives import Objective
from withstand.training import TrainingSettings, fit
from withstand.training.step import num_parts
from withstand.training.whole_batch import WholeBatch
from withstand.types import DataError, LossTerms, OutOfMemoryError, RecipeError

o = ws.objectives
PGD = ws.attacks.PGD(epsilon=0.1, num_steps=2)
SETTINGS = TrainingSettings(epochs=1, batch_size=100, accelerator="cpu")


def net() -> nn.Module:
    torch.manual_seed(1)
    return ws.models.create("cnn-small", dataset="digits")


def trained(objective: Objective, **options: Any) -> tuple[Tensor, list[dict[str, float | int | str]]]:
    model = net()
    result = fit(model, "digits", objective, replace(SETTINGS, **options), progress=False)
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]), list(result.rows)


class RunsOut(Objective):
    """Cross-entropy that has no memory for more than so many images at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.inner = o.NoisyCrossEntropy(0.1)

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        if len(labels) > self.most:
            model(images)[0, 0].backward()  # what a failed pass left behind is not to count
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
        result: LossTerms = self.inner(model, images, labels, progress=progress)
        return result


# -- shares of a batch -------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 3])
def test_shares_draw_what_the_whole_batch_draws(copies: int) -> None:
    torch.manual_seed(0)
    whole = filled(torch.empty(copies * 10, 2), Tensor.normal_).view(copies, 10, 2)
    states = []
    for number in range(3):
        share = Share(0, 10, 10).part(number, 3)
        torch.manual_seed(0)
        with taking(share):
            own = filled(torch.empty(copies * share.size, 2), Tensor.normal_)
        assert torch.equal(own.view(copies, share.size, 2), whole[:, share.start : share.stop])
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.Dropout1d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()])
def test_shares_drop_what_the_whole_batch_drops(layer: nn.Module) -> None:
    images = torch.rand(20, 3, 4)  # two copies of ten
    torch.manual_seed(0)
    whole = layer(images).view(2, 10, 3, 4)
    for number in range(3):
        share = Share(0, 10, 10).part(number, 3)
        torch.manual_seed(0)
        with taking(share), WholeBatch():
            own = layer(images.view(2, 10, 3, 4)[:, share.start : share.stop].flatten(0, 1))
        assert torch.equal(own.view(2, share.size, 3, 4), whole[:, share.start : share.stop])


@pytest.mark.parametrize(("rows", "parts"), [(10, 3), (7, 7), (5, 2), (1, 1)])
def test_parts_of_a_share_are_those_of_tensor_split(rows: int, parts: int) -> None:
    share = Share(4, 4 + rows, 30)
    expected = torch.tensor_split(torch.arange(4, 4 + rows), parts)
    for number in range(parts):
        part = share.part(number, parts)
        assert list(range(part.start, part.stop)) == expected[number].tolist()
        assert part.total == 30


@pytest.mark.parametrize(("rows", "processes", "most"), [(11, 2, 6), (5, 2, 3), (7, 3, 3), (12, 4, 8)])
def test_all_processes_divide_their_rows_into_as_many_parts(rows: int, processes: int, most: int) -> None:
    shares = [Share(0, rows, rows).part(number, processes) for number in range(processes)]
    counts = {num_parts(share, most, processes) for share in shares}
    # Else one process would wait for a part of another for ever.
    assert counts == {min(most, *(share.size for share in shares))}


def test_one_process_has_the_whole_batch_and_what_is_largest_in_it() -> None:
    assert own_share(8) is None
    items = torch.rand(3, 1, 2)
    assert largest_of_all(torch.rand(3, 1), items)[0] is items


def test_machines_that_nothing_started_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(RecipeError, match="num_nodes=2 needs the program started on each machine"):
        trained(o.CrossEntropy(), num_nodes=2)


def test_parts_of_one_image_are_refused_where_they_cannot_be_normalised() -> None:
    model = ws.models.create("mlp", dataset="digits", hidden=[4])
    model = nn.Sequential(model, nn.BatchNorm1d(10))
    with pytest.raises(DataError, match="divided among 1 processes with micro_batches=64, has one image"):
        fit(model, "digits", None, replace(SETTINGS, micro_batches=64), progress=False)


# -- parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 64])
@pytest.mark.parametrize(
    "make",
    [
        lambda: o.Adversarial(PGD) + 0.5 * o.NoisyCrossEntropy(0.2),
        lambda: o.Certified(math.inf, 0.05, domain="box", kappa=0.5),
        lambda: o.GaussianExpectation(noise_std=0.2),
    ],
)
def test_micro_batches_give_the_gradient_and_the_log_of_the_whole_batch(
    make: Callable[[], Objective], count: int
) -> None:
    sgd: dict[str, Any] = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05)}
    if count == 64:
        sgd |= {"batch_size": 500}
    (whole, rows), (parts, others) = trained(make(), **sgd), trained(make(), micro_batches=count, **sgd)
    assert float((whole - parts).abs().max()) < 2e-5
    for name, value in rows[0].items():
        if name not in ("seconds", "note"):
            assert others[0][name] == pytest.approx(value, rel=1e-4, abs=1e-5)


def test_batch_is_halved_until_memory_holds_it(caplog: pytest.LogCaptureFixture) -> None:
    whole, _ = trained(RunsOut(1000))
    with caplog.at_level(logging.WARNING):
        parts, _ = trained(RunsOut(30))
    assert float((whole - parts).abs().max()) < 2e-4  # Adam's first steps go by signs
    said = [record.getMessage() for record in caplog.records if "Out of memory" in record.getMessage()]
    assert [text.split("computed in ")[1].split()[0] for text in said] == ["2", "4"]
    assert "training.micro_batches=4" in said[-1]


def test_memory_that_does_not_hold_one_image_is_an_error() -> None:
    with pytest.raises(OutOfMemoryError, match="batches smaller than 100"):
        trained(RunsOut(0))


# -- arithmetic and memory format --------------------------------------------------------------------------


def test_channels_last_trains_alike() -> None:
    objective = o.Adversarial(replace(PGD, random_start=False))
    whole, other = trained(objective)[0], trained(objective, channels_last=True)[0]
    assert float((whole - other).abs().max()) < 5e-3
    assert not torch.equal(whole, trained(o.CrossEntropy())[0])


def test_fp16_is_refused_where_there_is_none() -> None:
    with pytest.raises(RecipeError, match=r"fp16.*of precisions fp32 or bf16"):
        trained(o.CrossEntropy(), precision="fp16")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compilation_says_where_no_graph_was_made(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        trained(o.Certified(2, 0.1), compile=True)
    assert "was not asked for a graph" in caplog.text
