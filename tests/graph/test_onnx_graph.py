from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import bayes, constraints
from withstand.graph.onnx_graph import onnx_bytes
from withstand.models.layers import GroupSort, MinMax, Normalize
from withstand.types import ModelError

SHAPE = (1, 6, 6)


class _Picture(nn.Module):
    """A sum, the batch's size taken from the input, and a single logit in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize([0.3], [0.2])
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.sort, self.drop, self.last = GroupSort(4), nn.Dropout(0.5), nn.Linear(36, 1)

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.normalize(x)
        x = nn.functional.avg_pool2d(x + self.sort(nn.functional.softplus(self.norm(self.conv(x)))), 2)
        return {"logits": self.last(self.drop(x.reshape(x.shape[0], -1)))}


def _vector() -> nn.Module:
    """Weights that are computed of others, in float64."""
    inner = nn.Sequential(nn.Linear(36, 12), MinMax())
    constraints.orthogonal_(inner)
    middle = nn.utils.spectral_norm(nn.Linear(12, 12))
    return nn.Sequential(nn.Flatten(), inner, middle, GroupSort(12), nn.Linear(12, 4)).double()


@pytest.mark.parametrize(("make", "operators"), [(_Picture, {"Min", "Max", "Softplus"}), (_vector, {"TopK"})])
def test_onnxruntime_gives_what_the_network_gives_in_eval_mode(
    make: Callable[[], nn.Module], operators: set[str]
) -> None:
    model = make()
    images = torch.rand(5, *SHAPE, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        model(images)  # gives BatchNorm statistics
    before = {name: value.clone() for name, value in model.state_dict().items()}
    content = onnx_bytes(model, SHAPE, {"what": "a net"})
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    proto = onnx.load(io.BytesIO(content))
    onnx.checker.check_model(proto, full_check=True)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {prop.key: prop.value for prop in proto.metadata_props} == {"what": "a net"}
    assert operators <= {node.op_type for node in proto.graph.node}
    assert "Where" not in {node.op_type for node in proto.graph.node}  # of thresholds
    assert b".py" not in content  # paths of sources
    with torch.no_grad():
        output = model.eval()(images)
    expected = output if isinstance(output, Tensor) else nn.functional.pad(output["logits"], (1, 0))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (given,) = session.run(["logits"], {"input": images.numpy()})
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-5)


class _Bessel(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.special.bessel_j0(x.flatten(1))
        return result


def test_an_operator_that_onnx_has_not_is_named() -> None:
    with pytest.raises(ModelError, match=r"no operator for \S*bessel_j0"):
        onnx_bytes(_Bessel(), SHAPE, {})


def test_random_weights_are_refused_with_the_mean_network_as_remedy() -> None:
    random = bayes.convert(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)))
    with pytest.raises(ModelError, match=r"mean_network\(model\)"):
        onnx_bytes(random, SHAPE, {})
