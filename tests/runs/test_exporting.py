from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import withstand as ws
from withstand.cli import main
from withstand.data import Dataset, few
from withstand.properties import read_vnnlib
from withstand.runs import exporting
from withstand.types import DataError, ModelError, RunFolderError


def test_a_run_is_exported_by_command_and_in_python_and_its_file_says_what_it_is(
    tiny_dataset: Dataset, tiny_model: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = ws.training.TrainingSettings(epochs=1)
    ws.fit(tiny_model, tiny_dataset, settings=settings, out=run, progress=False)
    exported = ws.export(run, tmp_path / "new" / "net.onnx", dataset=tiny_dataset)
    assert (exported.num_images, exported.same_answers) == (45, 45)
    assert exported.largest_difference < 1e-5
    assert "all 45 test images of tiny" in str(exported)
    about = {prop.key: prop.value for prop in onnx.load(exported.path).metadata_props}
    assert about["run"] == "run"
    assert json.loads(about["class_names"]) == ["left", "middle", "right"]
    assert about["input"].startswith("images of 1 x 4 x 4 in [0, 1]")
    images = tiny_dataset.test.images[:5] / 255
    with torch.no_grad():
        assert torch.allclose(ws.load(exported.path)(images), ws.load(run)(images), atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:  # nothing is left where writing fails, or the file is wrong
        patch.setattr(exporting, "onnx_bytes", lambda *_: exported.path.read_bytes())
        assert main(["export", str(run), "--out", str(exported.path)]) == 0  # its own file is replaced
        assert "all 200 random images" in capsys.readouterr().out
        last = tiny_model.get_submodule("5")
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias[0] += 0.01
        with pytest.raises(ModelError, match=r"differ by 0\.0.*not written"):
            ws.export(tiny_model, tmp_path / "wrong.onnx", dataset=tiny_dataset.info)
    assert not (tmp_path / "wrong.onnx").exists()


def test_files_of_others_and_networks_without_data_are_refused(tmp_path: Path) -> None:
    theirs, model = tmp_path / "theirs.onnx", nn.Flatten()
    theirs.write_bytes(b"theirs")
    info = ws.data.info("digits")
    for name, fault in [(theirs, "not written by this package"), (tmp_path / "net", "ends in .onnx")]:
        with pytest.raises(RunFolderError, match=fault):
            ws.export(model, name, dataset=info)
    assert theirs.read_bytes() == b"theirs"
    with pytest.raises(DataError, match="dataset="):
        ws.export(model, tmp_path / "net.onnx")
    assert main(["export", "mlp", "--data.name=digits"]) == 2


def test_robustness_of_images_that_the_network_gets_right_is_written_beside_it(
    tiny_dataset: Dataset, tiny_model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "onnx_bytes", lambda *_: b"a network")
    monkeypatch.setattr(
        exporting, "_as_onnxruntime", lambda _, images: exporting.logits_of(tiny_model, images)
    )
    out = tmp_path / "made" / "here"
    written = ws.export_properties(tiny_model, out, epsilon=0.05, count=5, timeout=9, dataset=tiny_dataset)
    images, labels = few(tiny_dataset.test, 45)
    right = (tiny_model.eval()(images).argmax(1) == labels).nonzero().flatten()[:5].tolist()
    assert (written.num_properties, written.num_wrong) == (5, right[-1] + 1 - 5)
    assert (out / "onnx" / "model.onnx").read_bytes() == b"a network"
    rows = [row.split(",") for row in (out / "instances.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["onnx/model.onnx"] * 5
    assert {row[2] for row in rows} == {"9"}
    assert [row[1] for row in rows] == [f"vnnlib/test-{index:02d}-linf-0.05.vnnlib" for index in right]
    (case,) = read_vnnlib(out / rows[-1][1]).cases
    image = images[right[-1]].double().flatten()
    assert torch.equal(case.lower, (image - 0.05).clamp_min(0))
    assert torch.equal(case.upper, (image + 0.05).clamp_max(1))
    assert case.goal.weight[:, labels[right[-1]]].tolist() == [1, 1]
    with pytest.raises(RunFolderError, match="not empty"):
        ws.export_properties(tiny_model, out, epsilon=0.05, dataset=tiny_dataset)
    assert [file.name for file in out.parent.iterdir()] == ["here"]


def test_properties_need_boxes_and_test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Flatten()
    with pytest.raises(ValueError, match="boxes, so its norm is linf"):
        ws.export_properties(model, tmp_path / "a", epsilon=0.1, norm="l2", dataset="digits")
    with pytest.raises(DataError, match="test images"):
        ws.export_properties(model, tmp_path / "a", epsilon=0.1, dataset=ws.data.info("digits"))
    assert main(["export", "run", "--epsilon=0.1"]) == 2
    assert "--epsilon is of properties: --format=vnnlib" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
