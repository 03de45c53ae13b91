"""ONNX files: batches, shapes, weights, what is refused, and the doors that they come in by."""

from __future__ import annotations

import copy
import logging
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import withstand as ws
from withstand.cli import main
from withstand.core.identity import identity_of_model
from withstand.models.onnx import files_of, read, runtime
from withstand.models.onnx.operator_table import OPERATORS, Operator
from withstand.types import ModelError

Write: TypeAlias = Callable[..., Path]
_RANDOM = np.random.default_rng(1)
_MATRIX = _RANDOM.normal(size=(4, 3)).astype(np.float32)


def _node(op: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, ["y"], **attributes)


_GEMM = helper.make_node("Gemm", ["x", "w"], ["y"])


def _array(*shape: int) -> np.ndarray[Any, Any]:
    return _RANDOM.normal(size=shape).astype(np.float32)


def _ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def _alone(network: nn.Module, file: Path, inputs: Tensor) -> Tensor:
    """What onnxruntime gives of each example alone."""
    run, shape = runtime(file), network.file_shape
    return torch.stack([run(row.reshape(shape)).flatten() for row in inputs])


# -- batches ----------------------------------------------------------------------------------------

# Tokens of an image, a class token, attention, the class token's answer; constants are for a batch of one.
_TOKENS = [
    helper.make_node("Reshape", ["x", "to_tokens"], ["tokens"]),
    helper.make_node("Concat", ["class_token", "tokens"], ["all"], axis=1),
    helper.make_node("Add", ["all", "positions"], ["placed"]),
    helper.make_node("MatMul", ["placed", "queries"], ["q"]),
    helper.make_node("Transpose", ["placed"], ["k"], perm=[0, 2, 1]),
    helper.make_node("MatMul", ["q", "k"], ["scores"]),
    helper.make_node("Softmax", ["scores"], ["shares"], axis=2),
    helper.make_node("MatMul", ["shares", "placed"], ["mixed"]),
    helper.make_node("Gather", ["mixed", "first"], ["chosen"], axis=1),
    helper.make_node("Reshape", ["chosen", "to_row"], ["row"]),
    helper.make_node("Gemm", ["row", "w"], ["y"]),
]
_OF_TOKENS = {
    "to_tokens": _ints(1, 4, 4),
    "class_token": _array(1, 1, 4),
    "positions": _array(5, 4),
    "queries": _array(4, 4),
    "first": np.array(0),
    "to_row": _ints(1, 4),
    "w": _MATRIX,
}


@pytest.mark.parametrize("batch", [1, "N"])
def test_constants_for_a_batch_of_one_hold_for_any_batch(write_onnx: Write, batch: int | str) -> None:
    file = write_onnx(_TOKENS, (batch, 1, 4, 4), _OF_TOKENS)
    state = torch.get_rng_state()
    network = read(file)
    assert torch.equal(torch.get_rng_state(), state)
    inputs = torch.rand(5, 1, 4, 4)
    torch.testing.assert_close(network(inputs), _alone(network, file, inputs), rtol=1e-4, atol=1e-5)
    assert network(inputs[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("shape", "taken"),
    [((1, 4), (4,)), (("N", 4), (4,)), ((4,), (4,)), ((1, 1, 1, 4), (1, 1, 4)), ((2, 2), (2, 2))],
)
def test_network_takes_a_batch_where_the_file_has_one_or_none(
    write_onnx: Write, shape: Sequence[int | str], taken: tuple[int, ...]
) -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    network = read(write_onnx(nodes, shape, {"s": _ints(1, 4), "w": _MATRIX}))
    inputs = torch.rand(3, *taken)
    torch.testing.assert_close(network(inputs), inputs.flatten(1) @ torch.tensor(_MATRIX))


def test_network_that_mixes_the_examples_of_a_batch_is_refused(write_onnx: Write) -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    with pytest.raises(ModelError, match="mixes the examples of a batch"):
        read(write_onnx(node, ("N", 4)))


def test_network_that_is_not_what_onnxruntime_computes_is_refused(
    write_onnx: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, "Relu", Operator(lambda node, x: x.mapped(lambda t: torch.relu(t) + 1e-4)))
    with pytest.raises(ModelError, match="does not give what onnxruntime gives"):
        read(write_onnx(helper.make_node("Relu", ["x"], ["y"]), (1, 4)))


# -- weights ----------------------------------------------------------------------------------------


def test_weights_are_parameters_by_the_names_of_the_file_and_scales_are_not(write_onnx: Write) -> None:
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["a"]),
        helper.make_node("Div", ["a", "std"], ["b"]),
        helper.make_node("Gemm", ["b", "fc1.weight", "fc1.bias"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "fc2.weight"], ["e"]),
        helper.make_node("Add", ["fc2.bias", "e"], ["f"]),
        helper.make_node("Mul", ["f", "gain"], ["g"]),
        helper.make_node("Constant", [], ["ones"], value_floats=[1.0, 1.0]),
        helper.make_node("Mul", ["g", "ones"], ["h"]),
        helper.make_node("Mul", ["h", "scale"], ["y"]),
    ]
    constants = {
        "mean": _array(1, 4),
        "std": np.abs(_array(4)) + 1,
        "fc1.weight": _MATRIX,
        "fc1.bias": _array(3),
        "fc2.weight": _array(3, 2),
        "fc2.bias": _array(2),
        "gain": _array(2),
        "scale": _array(1),
    }
    network = read(write_onnx(nodes, (1, 4), constants))
    assert {name for name, _ in network.named_parameters()} == {
        *("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "gain"),
    }
    assert {name for name, _ in network.named_buffers()} == {"mean", "std", "ones", "scale"}
    assert isinstance(network.get_submodule("fc2"), nn.Linear)
    torch.testing.assert_close(network.get_parameter("fc2.bias").detach().numpy(), constants["fc2.bias"])


def test_weight_of_several_layers_is_one_parameter(write_onnx: Write) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    assert len(list(read(write_onnx(nodes, (1, 3), {"w": _array(3, 3)})).parameters())) == 1


def test_network_of_a_file_is_copied_and_pickled(write_onnx: Write) -> None:
    network = read(write_onnx(_TOKENS, (1, 1, 4, 4), _OF_TOKENS))
    inputs = torch.rand(2, 1, 4, 4)
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(again(inputs), network(inputs))


def test_weights_in_another_file_are_read_and_belong_to_it(write_onnx: Write) -> None:
    file = write_onnx(_GEMM, (1, 4), {"w": _MATRIX}, external=True)
    torch.testing.assert_close(read(file)(torch.eye(4)), torch.tensor(_MATRIX))
    assert list(files_of(file)) == ["net.onnx", "net.weights"]
    (file.parent / "net.weights").unlink()
    with pytest.raises(ModelError, match=r"net\.weights; put it there"):
        read(file)


# -- what is refused --------------------------------------------------------------------------------

_LARGE = {"s": _ints(2**20, 2**20, 4)}
_SIZE = [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        (_node("LSTM", "x", "w", "w"), {}, r"no reader for the operator LSTM.*docs/own\.md"),
        (_node("Relu", "x", domain="my.own"), {}, r"my\.own\.Relu"),
        (_GEMM, {"outputs": ("y", "z")}, r"2 outputs \(y, z\)"),
        (_GEMM, {"inputs": ("x", "z")}, r"2 inputs \(x, z\)"),
        (_GEMM, {"kind": TensorProto.FLOAT16}, "takes float16"),
        (_GEMM, {"opset": 6}, "opset 6"),
        (_GEMM, {"shape": (8, 4), "output_shape": (8, 3)}, "batches of exactly 8"),
        (_GEMM, {"shape": (1, "features")}, r"leaves open .*\(1, \?\).*verify` --input_shape="),
        (_GEMM, {"shape": (1, 5)}, r"Gemm \(node 0\) does not fit"),
        (_node("Identity", "w"), {}, "does not depend on its input"),
        (_node("Cast", "x", to=TensorProto.INT64), {}, "rounds what depends on the input"),
        (_node("Reshape", "w", "x"), {}, "must have a constant for x"),
        (_node("Expand", "x", "s"), {"constants": _LARGE}, "file is damaged"),
        (_SIZE, {"constants": _LARGE}, "more than .* numbers"),
        (_node("Resize", "x", mode="cubic"), {}, "cubic"),
    ],
)
def test_file_that_cannot_be_read_says_why(
    write_onnx: Write, nodes: Any, options: dict[str, Any], message: str
) -> None:
    given = {"shape": (1, 4), "constants": {"w": _MATRIX}, **options}
    with pytest.raises(ModelError, match=message):
        read(write_onnx(nodes, given.pop("shape"), given.pop("constants"), **given))


def test_nodes_that_do_not_fit_are_told_by_the_error_alone(
    write_onnx: Write, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    matmul = _node("MatMul", "x", "w")
    with pytest.raises(ModelError, match=r"MatMul \(node 0\) does not fit"):
        read(write_onnx(matmul, (1, 5), {"w": _MATRIX}))
    assert caplog.text + "".join(capfd.readouterr()) == ""


def test_missing_package_is_named_with_its_extra(write_onnx: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ModelError, match=r"onnxruntime, which is not installed: pip install 'withstand\[onnx\]'"
    ):
        read(write_onnx(_GEMM, (1, 4), {"w": _MATRIX}))


def test_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    with pytest.raises(ModelError, match="no file"):
        read(file)
    file.write_bytes(b"\x00\x01 no network")
    with pytest.raises(ModelError, match="damaged, or no ONNX"):
        read(file)
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="no network"):
        read(file)


def test_weights_beyond_the_folder_of_a_file_are_not_read(write_onnx: Write) -> None:
    file = write_onnx(_GEMM, (1, 4), {"w": _MATRIX}, external=True)
    model = onnx.load(file, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../net.weights"
    onnx.save(model, file)
    with pytest.raises(ModelError, match="must lie beside it"):
        read(file)


# -- the doors --------------------------------------------------------------------------------------

_SIDE = 4


def _classifier(write_onnx: Write, shape: Sequence[int | str] = (1, _SIDE**2), end: str = "Identity") -> Path:
    """Of ``tiny_dataset``: how bright the columns are."""
    columns = np.tile(np.eye(_SIDE, 3), (_SIDE, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight"], ["g"]),
        helper.make_node(end, ["g"], ["y"]),
    ]
    return write_onnx(nodes, shape, {"fc.weight": columns})


@pytest.fixture(autouse=True)
def _nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said once a process is said once a test."""
    monkeypatch.setattr("withstand.models.hosted._SAID", set())


def test_flat_network_takes_images_and_says_so(write_onnx: Write, caplog: pytest.LogCaptureFixture) -> None:
    file = _classifier(write_onnx)
    with caplog.at_level(logging.WARNING):
        model = ws.models.create(str(file), input_shape=(1, _SIDE, _SIDE), num_classes=3)
    assert "examples of shape (16,); those of shape (1, 4, 4)" in caplog.text
    assert "as they are, in [0, 1]" in caplog.text
    images = torch.rand(2, 1, _SIDE, _SIDE)
    assert torch.equal(model(images), ws.load(file)(images.flatten(1)))


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 8, 8, 3), "channels seem to come last"), ((1, 3, 8, 6), "Take the data")]
)
def test_images_of_another_shape_are_refused(write_onnx: Write, shape: Sequence[int], message: str) -> None:
    file = write_onnx(helper.make_node("Flatten", ["x"], ["y"]), shape)
    with pytest.raises(ModelError, match=message):
        ws.models.create(str(file), input_shape=(3, 8, 8), num_classes=10)


def test_sizes_that_a_file_leaves_open_are_those_of_the_data(write_onnx: Write) -> None:
    file = write_onnx(helper.make_node("GlobalAveragePool", ["x"], ["y"]), ("N", 3, "h", "w"))
    model = ws.models.create(str(file), dataset="cifar10", num_classes=3)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_softmax_at_the_end_is_said_and_left_out_on_demand(
    write_onnx: Write, caplog: pytest.LogCaptureFixture
) -> None:
    file = _classifier(write_onnx, end="Softmax")
    images = torch.rand(2, _SIDE**2)
    with caplog.at_level(logging.WARNING):
        shares = ws.load(file)(images)
    assert "it ends in Softmax" in caplog.text
    logits = ws.models.create(str(file), logits=True)
    torch.testing.assert_close(logits(images).softmax(1), shares)
    assert identity_of_model(logits) != identity_of_model(ws.load(file))
    with pytest.raises(ModelError, match="does not end in"):
        ws.models.create(str(_classifier(write_onnx)), logits=True)


def test_mean_and_deviation_go_in_front(write_onnx: Write) -> None:
    file = write_onnx(helper.make_node("Flatten", ["x"], ["y"]), (1, 1, 2, 2))
    model = ws.models.create(str(file), mean=[0.5], std=[0.25])
    assert torch.equal(model(torch.ones(1, 1, 2, 2)), torch.full((1, 4), 2.0))


def test_classes_other_than_those_of_the_data_are_refused(write_onnx: Write) -> None:
    with pytest.raises(ModelError, match="3 outputs, but the data have 10"):
        ws.models.create(str(_classifier(write_onnx)), input_shape=(16,), num_classes=10)


def _small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.LayerNorm(8),
        nn.GELU(),
        nn.Linear(8, 3),
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A network of torch, and the file that torch's exporter makes of it."""
    torch.manual_seed(0)
    network = _small_net().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = torch.rand(4), torch.rand(4) + 0.5
    file = tmp_path_factory.mktemp("exported") / "net.onnx"
    torch.onnx.export(
        network,
        (torch.rand(2, 1, 8, 8),),
        file,
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
    )
    return network, file


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_what_torch_exports_comes_back_with_the_same_answers_and_bounds(
    exported: tuple[nn.Module, Path],
) -> None:
    network, file = exported
    again = read(file)
    images, labels = torch.rand(5, 1, 8, 8), torch.arange(5) % 3
    torch.testing.assert_close(again(images), network(images), rtol=1e-5, atol=1e-6)
    bounds = [
        ws.certify(model, images, labels, norm=torch.inf, epsilon=0.01, method="box").margin
        for model in (network, again)
    ]
    torch.testing.assert_close(*bounds)


def test_network_of_a_file_is_trained_and_its_folder_needs_the_file_no_more(
    write_onnx: Write, tiny_dataset: ws.data.Dataset, tmp_path: Path
) -> None:
    file = _classifier(write_onnx)
    model = ws.models.create(str(file), dataset=tiny_dataset.info)
    before = model.get_parameter("fc.weight").detach().clone()
    settings = ws.training.TrainingSettings(epochs=1)
    ws.fit(model, tiny_dataset, ws.objectives.CrossEntropy(), settings, out=tmp_path / "run")
    file.unlink()
    images = tiny_dataset.test.images[:4].float() / 255
    again = ws.load(tmp_path / "run")
    assert torch.equal(again(images), model(images))
    assert not torch.equal(again.get_parameter("fc.weight"), before)


def test_copy_in_a_run_folder_that_was_changed_is_not_read(
    write_onnx: Write, tiny_dataset: ws.data.Dataset, tmp_path: Path
) -> None:
    model = ws.models.create(str(_classifier(write_onnx)), dataset=tiny_dataset.info)
    settings = ws.training.TrainingSettings(epochs=1)
    ws.fit(model, tiny_dataset, ws.objectives.CrossEntropy(), settings, out=tmp_path / "run")
    copied = tmp_path / "run" / "source" / "net.onnx"
    copied.write_bytes(copied.read_bytes()[:-1])
    with pytest.raises(ws.types.RunFolderError, match="not as it was"):
        ws.load(tmp_path / "run")


@pytest.fixture
def digits_net(write_onnx: Write, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file for vectors of 64 numbers, in the current folder."""
    nodes = [helper.make_node("Gemm", ["x", "fc.weight"], ["y"])]
    file = write_onnx(nodes, (1, 64), {"fc.weight": _array(64, 10)})
    monkeypatch.chdir(file.parent)
    return file.name


def test_commands_measure_a_file_and_its_folder_from_anywhere(
    digits_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = "--num_examples=4"
    assert main(["certify", digits_net, "--data.name=digits", "--norm=2", "--epsilons=[0.01]", few]) == 0
    (tmp_path / digits_net).unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["attack", "../runs/net", "--epsilon=0.02", "--num_steps=2", few]) == 0
    measures = (tmp_path / "runs" / "net" / "measurements.csv").read_text()
    assert "certified accuracy" in measures
    assert "attacked accuracy" in measures


def test_recipe_trains_a_file_that_is_named(digits_net: str, tmp_path: Path) -> None:
    options = ["--model.options={}", "--training.epochs=1", "--data.train_size=64", "--out=tuned"]
    assert main(["train", "digits-adversarial", f"--model.name={digits_net}", *options]) == 0
    assert (tmp_path / "tuned" / "source" / digits_net).is_file()


def test_normalisation_of_the_data_is_not_put_in_front_of_a_file(
    digits_net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attack", digits_net, "--data.name=digits", "--model.normalize=true"]) == 2
    assert "--model.options={mean: [0.5], std: [0.25]}" in capsys.readouterr().err


def test_check_needs_no_data_for_a_file(digits_net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", digits_net, "--format=json"]) == 0
    assert '"certified: box (IBP)"' in capsys.readouterr().out
