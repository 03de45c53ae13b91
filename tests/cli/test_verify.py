"""``withstand verify`` as a user meets it: one property, whole benchmarks, and bad input."""

from __future__ import annotations

import gzip
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import withstand as ws
from withstand.cli.entry import main
from withstand.cli.verify import _ending
from withstand.properties import robustness, to_vnnlib
from withstand.results.instances import Instance, InstanceRow, read_instances, read_rows, write_rows
from withstand.runs import benchmark, instance_worker
from withstand.runs.benchmark import verify_instances
from withstand.runs.instance_worker import run_instance
from withstand.types import DataError, RunFolderError


def write_onnx(file: Path, net: nn.Sequential, ending: str = "Identity") -> None:
    """Writes a linear layer, a ReLU and a linear layer, and what comes last."""
    weights = dict(zip("abcd", net.parameters(), strict=True))
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "c", "d"], ["z"], transB=1),
        helper.make_node(ending, ["z"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("x", 6), ("y", 2))
    ]
    held = [numpy_helper.from_array(part.detach().numpy(), name) for name, part in weights.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), file)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, and properties of it that hold, do not, and cannot be read."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    net, image = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.full((6,), 0.5)
    with torch.no_grad():  # both classes are in reach
        *_, bias = net.parameters()
        bias.sub_(net(image[None])[0] - torch.tensor([0.0, 0.01]))
    write_onnx(folder / "net.onnx", net)
    for name, epsilon in {"holds": 1e-4, "fails": 0.5}.items():
        stated = robustness(image, 1, epsilon=epsilon, num_classes=2)
        (folder / f"{name}.vnnlib").write_text(to_vnnlib(stated))
    (folder / "bad.vnnlib").write_text("(declare-const X_0 Real)\n(push)")
    return folder


def test_answer_is_the_first_line_and_the_counterexample_follows(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(bench / "net.onnx"), str(bench / "holds.vnnlib"), "--timeout=60"]) == 0
    assert capsys.readouterr().out == "unsat\n"
    assert main(["verify", str(bench / "net.onnx"), str(bench / "fails.vnnlib"), "--timeout", "60"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("sat\n((X_0 ")
    assert printed.count("\n") == 1 + 6 + 2
    packed = tmp_path / "net.onnx.gz"
    packed.write_bytes(gzip.compress((bench / "net.onnx").read_bytes()))
    file = tmp_path / "new" / "result.txt"
    assert main(["verify", str(packed), str(bench / "fails.vnnlib"), f"--results-file={file}"]) == 0
    assert capsys.readouterr().out == "sat\n"
    assert file.read_text() == printed


def test_order_of_outputs_is_proven_before_a_softmax(tmp_path: Path) -> None:
    net, file = nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 2)), tmp_path / "net.onnx"
    with torch.no_grad():
        for part, value in zip(
            net.parameters(), ([[0.0] * 5 + [1]], [0.0], [[40], [0]], [0.0, -1]), strict=True
        ):
            part.copy_(torch.tensor(value))
    write_onnx(file, net, "Softmax")  # logits 40 x and -1: over the box nearly all of [0, 1]²
    stated = robustness(torch.full((6,), 0.5), 0, epsilon=0.5, num_classes=2)
    verdict = ws.verify(file, stated, timeout=60)
    assert verdict.result == "unsat"
    assert verdict.bound == pytest.approx(1)
    text = to_vnnlib(stated).replace("(<= Y_0 Y_1)", "(<= Y_0 0.9)")  # which is not of their order
    found = ws.verify(file, text, timeout=60).counterexample
    assert found is not None
    assert found.outputs.sum() == pytest.approx(1)


def test_what_cannot_be_verified_is_an_error_on_one_line(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, file = str(bench / "net.onnx"), tmp_path / "result.txt"
    assert main(["verify", net, str(bench / "bad.vnnlib"), f"--results_file={file}"]) == 2
    assert "line 2: there is no command 'push'" in capsys.readouterr().err
    assert file.read_text() == "error\n"
    for arguments, message in (
        ([net], "needs a model and a property"),
        ([net, "p.vnnlib", "--timeout=0"], "--timeout above 0"),
        ([net, "p.vnnlib", "--out=x"], "--out is for --instances"),
        ([net, "--instances=x.csv"], "is of a single property"),
        (["--instances=x.csv"], "no file of instances x.csv"),
        ([net, "p.vnnlib", "--time=3"], "did you mean '--timeout'"),
    ):
        assert main(["verify", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_process_that_does_not_end_by_itself_is_ended_with_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    told: list[object] = []

    def end(status: int) -> None:
        told.append(status)
        ended.set()

    monkeypatch.setattr(os, "_exit", end)
    for seconds in (60, 1e300):
        with _ending(seconds, lambda: told.append("too early")):
            assert not ended.wait(0.01)
    with _ending(0.01, lambda: told.append("timeout")):
        assert ended.wait(10)
    assert told == ["timeout", 0]


def test_benchmark_goes_on_where_it_was_stopped(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench / "changed.vnnlib").write_text((bench / "bad.vnnlib").read_text())
    lines = [
        "net.onnx,holds.vnnlib,60",
        "net.onnx,changed.vnnlib,60",
        "net.onnx,none.vnnlib,60",
        "net.onnx,fails.vnnlib,60",
    ]
    (bench / "instances.csv").write_text("\n".join(lines))
    out, ran = tmp_path / "out", []

    def counted(instance: Instance) -> tuple[InstanceRow, str]:
        ran.append(instance.vnnlib)
        if ran == ["holds.vnnlib", "changed.vnnlib"]:
            raise KeyboardInterrupt
        return run_instance(instance)

    monkeypatch.setattr(benchmark, "run_instance", counted)
    command = ["verify", f"--instances={bench / 'instances.csv'}", f"--out={out}"]
    assert main(command) == 130
    assert [row.result for row in read_rows(out / "results.csv")] == ["unsat"]
    assert "1 of 4 instances are done so far" in (out / "verify.html").read_text()
    ran.append("again")
    assert main(command) == 0
    assert ran[3:] == ["changed.vnnlib", "none.vnnlib", "fails.vnnlib"]  # and not the first
    printed = capsys.readouterr().out
    assert "1/4 net.onnx holds.vnnlib: unsat as before" in printed
    assert "unsat 1, sat 1, error 2" in printed
    rows = read_rows(out / "results.csv")
    assert [row.result for row in rows] == ["unsat", "error", "error", "sat"]
    assert "line 2: there is no command" in rows[1].message
    assert "There is no property" in rows[2].message
    assert {row.category for row in rows} == {bench.name}
    assert (out / "counterexamples" / f"{rows[3].key}.txt").read_text().startswith("sat\n((X_0")
    page = (out / "verify.html").read_text()
    for text in ("Instances solved within a time", "fails.vnnlib", "line 2: there is no command"):
        assert text in page
    (bench / "changed.vnnlib").write_text((bench / "holds.vnnlib").read_text())
    again = verify_instances(bench / "instances.csv", out)
    assert ran[6:] == ["changed.vnnlib", "none.vnnlib"]  # what was changed, and what could not be read
    assert [row.result for row in again] == ["unsat", "unsat", "error", "sat"]


def _dies(connection: Connection, instance: Instance) -> None:
    connection.send("begun")
    os._exit(7)


def _hangs(connection: Connection, instance: Instance) -> None:
    connection.send("begun")
    time.sleep(600)


@pytest.mark.parametrize(
    ("work", "seconds", "result", "message"),
    [(_dies, 1e300, "error", "exit code 7"), (_hangs, 0.2, "timeout", "")],
)
def test_process_that_dies_or_hangs_is_a_row(
    work: Callable[..., None], seconds: float, result: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_worker, "_work", work)
    monkeypatch.setattr(instance_worker, "_GRACE", 0.2)
    row, counterexample = run_instance(Instance("some", "net", "p.vnnlib", seconds, Path()))
    assert (row.result, counterexample) == (result, "")
    assert message in row.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no instances"),
        ("onnx,vnnlib,timeout\n", "holds no instances"),
        ("net.onnx\n", "line 1: expected net.onnx,property.vnnlib,seconds"),
        ("a,b,5\n\na,b,soon\n", "line 3: expected seconds above 0"),
        ("a,b,-1\n", "line 1: expected seconds above 0"),
        ("a,b\n", "line 1: no timeout is given"),
    ],
)
def test_line_that_is_no_instance_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "instances.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_instances(file)


def test_instances_take_compressed_files_and_the_shorter_timeout(tmp_path: Path) -> None:
    file = tmp_path / "instances.csv"
    file.write_text("onnx,vnnlib,timeout\nonnx/net.onnx, p.vnnlib, 100\nonnx/net.onnx,p.vnnlib\n")
    (tmp_path / "p.vnnlib.gz").write_bytes(b"")
    long, none = read_instances(file, timeout=30)
    assert (long.timeout, none.timeout) == (30, 30)
    assert long.files == (tmp_path / "onnx" / "net.onnx", tmp_path / "p.vnnlib.gz")


def test_rows_are_read_again_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    rows = [
        InstanceRow("a", "net.onnx, one.onnx", "p.vnnlib", 0.5, "unsat", 1.25, 60.0, 0.125, 3, "", "k"),
        InstanceRow("a", "net.onnx", "p.vnnlib", 0.0, "error", 0.0, 60.0, message='two\n"lines"'),
    ]
    write_rows(file, rows)
    assert read_rows(file) == rows
    file.write_text(file.read_text().replace("unsat", "maybe"))
    with pytest.raises(RunFolderError, match="is damaged"):
        read_rows(file)
