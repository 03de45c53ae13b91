from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from withstand.reporting.read import Environment, read_run
from withstand.reporting.table import clean
from withstand.results.measurements import table_of
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]
_HEADER = "measure,by,norm,level,value,lower,upper,correct,total\n"
_BIN = {"lower": 0.0, "upper": 1.0, "count": 1, "confidence": 0.5, "accuracy": 1.0}
_CLASSES = {
    **{"class_names": ["a", "b"], "attacked": None, "certified": None, "accuracies": []},
    "confusion": {"clean": [[1]], "attacked": None},
}


def test_read_run_reads_a_whole_folder(write_run: WriteRun) -> None:
    run = read_run(write_run())
    assert run.recipe is not None
    assert run.recipe["name"] == "tiny"
    assert run.recipe_text is not None
    assert "title: A tiny run" in run.recipe_text
    assert run.environment is not None
    assert run.environment.seed == 3
    assert run.environment.cost.train_steps == 400
    assert run.num_rows == 3
    assert run.results is not None
    assert run.results.dataset == "mnist"
    assert clean(run).correct == 981
    assert run.gallery is not None
    assert run.gallery.class_names == ["cat", "dog", "ship"]
    assert run.gallery.attack == "pgd-200"
    assert run.gallery.epsilon == pytest.approx(20 / 255)


@pytest.mark.parametrize("file", ["metrics.json", "train.csv"])
def test_read_run_needs_one_file(write_run: WriteRun, file: str) -> None:
    run = read_run(write_run(only={file}))
    present = [run.results is not None, run.history is not None]
    assert present == [file == "metrics.json", file == "train.csv"]
    assert run.recipe is None
    assert run.environment is None
    assert run.gallery is None
    assert run.num_rows is None
    assert run.table.empty == (file == "train.csv")
    assert list(run.table.columns) == list(table_of([]).columns)


def test_read_run_refuses_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "page.html").touch()
    with pytest.raises(RunFolderError, match=r"page\.html is a file, but a run is a folder"):
        read_run(tmp_path / "page.html")
    with pytest.raises(RunFolderError, match=r"no run folder .*nowhere.*withstand run RECIPE --out"):
        read_run(tmp_path / "nowhere")


def test_read_run_refuses_a_folder_without_figures(write_run: WriteRun) -> None:
    with pytest.raises(RunFolderError, match=r"neither metrics\.json nor train\.csv.*withstand run"):
        read_run(write_run(only={"recipe.yaml", "environment.json"}))


def test_history_has_columns_of_numbers(write_run: WriteRun) -> None:
    training = (
        "epoch,progress,loss,robust_accuracy,mood,extra,note\n1,1,nan,,calm,5,\n2,2,0.5,0.25,wild,inf,a\n"
    )
    history = read_run(write_run(training=training)).history
    assert history is not None
    assert history.columns == {
        "epoch": [1, 2],
        "progress": [1, 2],
        "loss": [None, 0.5],
        "robust_accuracy": [None, 0.25],
        "extra": [5, None],
    }
    assert history.notes == ["", "a"]


def rewritten(folder: Path, file: str, change: Callable[[Any], Any]) -> Path:
    """The folder with a JSON file changed."""
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(change(content)), encoding="utf-8")
    return folder


def test_read_run_ignores_unknown_keys(write_run: WriteRun) -> None:
    def later(content: Any) -> Any:
        content["attacks"][0]["later"] = "x"
        return content | {"later": {"curve": [1, None]}}

    folder = write_run()
    before = read_run(folder)
    after = read_run(rewritten(folder, "metrics.json", later))
    assert after.results == before.results
    table = pd.read_csv(folder / "measurements.csv")
    table.assign(later="x").to_csv(folder / "measurements.csv", index=False)
    assert read_run(folder).table.equals(before.table)


def test_radii_are_read_by_name(write_run: WriteRun) -> None:
    examples = "index,radius-l2,radius-linf,certified-l2@1\n0,0.5,0.1,0\n1,1.25,,1\n"
    assert read_run(write_run(examples=examples)).radii == {"radius-l2": [0.5, 1.25]}


@pytest.mark.parametrize("cell", ["far", "-0.5", "nan", "inf"])
def test_radii_that_are_no_numbers_from_0_are_refused(write_run: WriteRun, cell: str) -> None:
    with pytest.raises(RunFolderError, match=r"examples\.csv is damaged: column radius-l2"):
        read_run(write_run(examples=f"index,radius-l2\n0,{cell}\n"))


def test_history_reads_notes_with_line_breaks(write_run: WriteRun) -> None:
    history = read_run(write_run(training='epoch,note\n1,"two\nlines"\n\n2,\n')).history
    assert history is not None
    assert history.notes == ["two\nlines", ""]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", "{", r"metrics\.json is damaged: it is not JSON"),
        ("metrics.json", "[1]", r"metrics\.json has schema None, but this version reads"),
        ("metrics.json", "\ud800", r"metrics\.json is damaged: it is not UTF-8"),
        ("metrics.json", '{"schema": 2}', r"metrics\.json is damaged: dataset: Field required"),
        ("measurements.csv", "measure,by\nclean accuracy,\n", r"measurements\.csv is damaged: .*norm"),
        ("measurements.csv", _HEADER, r"measurements\.csv is damaged: it has no row of clean accuracy"),
        ("environment.json", "x", r"environment\.json is damaged"),
        (
            "environment.json",
            '{"seed": "a"}',
            r"environment\.json is damaged: seed: Input should be a valid integer",
        ),
        ("recipe.yaml", "a: [", r"recipe\.yaml is damaged: it is not YAML"),
        ("recipe.yaml", "- a", r"recipe\.yaml is damaged: it is not a mapping"),
        ("train.csv", "", r"train\.csv is damaged: it is not a CSV table"),
        ("train.csv", 'epoch\n"1', r"train\.csv is damaged: it is not a CSV table"),
        ("train.csv", "loss\n1\n", r"train\.csv is damaged: its header has no column epoch"),
        ("train.csv", "epoch,loss\n1,2\n2\n", r"train\.csv is damaged: row 2 has 1 cells, the header has 2"),
        ("train.csv", "epoch,loss\n1,x\n", r"train\.csv is damaged: column loss holds what is no number"),
        ("train.csv", "epoch,a_accuracy\n1,x\n", r"column a_accuracy holds what is no number"),
        ("examples.csv", "index,label\n0\n", r"examples\.csv is damaged: row 1"),
        ("gallery.npz", "no archive", r"gallery\.npz is damaged"),
    ],
)
def test_read_run_names_a_damaged_file(write_run: WriteRun, file: str, content: str, message: str) -> None:
    folder = write_run()
    (folder / file).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunFolderError, match=message):
        read_run(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_examples": 1.5}, r"num_examples: Input should be a valid integer"),
        ({"num_examples": True}, r"num_examples: Input should be a valid integer"),
        ({"warnings": {}}, r"warnings: Input should be a valid array"),
        (
            {"attacks": [{"name": "a", "norm": "2"}, {"name": 1}]},
            r"attacks\[1\]\.name: Input should be .*string",
        ),
        ({"attacks": [{"name": "a"}]}, r"attacks\[0\]\.norm: Field required"),
        (
            {"calibration": [_BIN | {"lower": 1.5}]},
            r"calibration\[0\]\.lower: Input should be less than or equal",
        ),
        ({"calibration": [_BIN | {"accuracy": math.nan}]}, r"calibration\[0\]\.accuracy: "),
        (
            {"calibration": [_BIN | {"upper": "1"}]},
            r"calibration\[0\]\.upper: Input should be a valid number",
        ),
        (
            {"classes": _CLASSES},
            r"classes: confusion must hold a row and a column for each of the class_names",
        ),
    ],
)
def test_read_run_names_a_key_that_does_not_fit(write_run: WriteRun, changes: Any, message: str) -> None:
    folder = rewritten(write_run(), "metrics.json", lambda content: content | changes)
    with pytest.raises(RunFolderError, match=rf"metrics\.json is damaged: {message}"):
        read_run(folder)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("value", "90.7", "an accuracy outside 0 to 1"),
        ("value", "", "no finite number"),
        ("value", "inf", "no finite number"),
        ("level", "", "no finite number"),
        ("upper", "inf", "no finite number"),
        ("value", "much", "much"),
        ("correct", "1.5", ""),
    ],
)
def test_read_run_refuses_a_measurement_that_is_none(
    write_run: WriteRun, column: str, cell: str, message: str
) -> None:
    folder = write_run()
    table = pd.read_csv(folder / "measurements.csv", dtype=str, keep_default_na=False)
    table.loc[2, column] = cell
    table.to_csv(folder / "measurements.csv", index=False)
    with pytest.raises(RunFolderError, match=rf"measurements\.csv is damaged: .*{message}"):
        read_run(folder)


def test_read_run_refuses_an_evaluation_of_another_version(write_run: WriteRun) -> None:
    for schema in (1, 3):
        folder = write_run(str(schema))
        text = (folder / "metrics.json").read_text(encoding="utf-8")
        (folder / "metrics.json").write_text(text.replace('"schema": 2', f'"schema": {schema}'), "utf-8")
        with pytest.raises(RunFolderError, match=rf"Evaluate the run again .*withstand evaluate {folder}"):
            read_run(folder)
    folder = write_run()
    (folder / "measurements.csv").unlink()
    with pytest.raises(RunFolderError, match=rf"withstand evaluate {folder}"):
        read_run(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adversarial": np.zeros((2, 4, 5, 1), np.uint8)}, "uint8 arrays of one shape"),
        ({"clean": np.zeros((2, 4, 4, 1), np.float32)}, "uint8 arrays of one shape"),
        (
            {"clean": np.zeros((2, 4, 4, 0), np.uint8), "adversarial": np.zeros((2, 4, 4, 0), np.uint8)},
            r"must be \(images, height, width, channels\)",
        ),
        ({"label": np.array([0])}, "one whole number an image"),
        ({"label": np.array([0.0, 1.0])}, "one whole number an image"),
        ({"adversarial_prediction": np.array([0, 3])}, "must lie in 0 to 2"),
        ({"clean_prediction": np.array([-2, 0])}, "must lie in 0 to 2"),
        ({"epsilon": np.array([1.0, 2.0])}, "damaged"),
    ],
)
def test_gallery_that_does_not_fit_is_refused(
    write_run: WriteRun, gallery: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(
        RunFolderError, match=rf"gallery\.npz is damaged: .*{message}|gallery.npz is {message}"
    ):
        read_run(write_run(gallery=gallery | changes))


def test_gallery_never_unpickles(write_run: WriteRun, gallery: dict[str, Any]) -> None:
    gallery["class_names"] = np.array([{"a": 1}], dtype=object)
    with pytest.raises(RunFolderError, match=r"gallery\.npz is damaged"):
        read_run(write_run(gallery=gallery))


def test_gallery_that_lacks_an_array_is_refused(write_run: WriteRun, gallery: dict[str, Any]) -> None:
    del gallery["label"]
    with pytest.raises(RunFolderError, match=r"gallery\.npz is damaged: .*label"):
        read_run(write_run(gallery=gallery))


def test_environment_may_be_empty(write_run: WriteRun) -> None:
    folder = write_run(environment={})
    assert json.loads((folder / "environment.json").read_text(encoding="utf-8")) == {}
    assert read_run(folder).environment == Environment()


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("clean accuracy,,,0,0.9,0.8,0.95,8,10", "value is not correct / total"),
        ("clean accuracy,,,0,0.8,0.5,0.95,80,10", "value is not correct / total"),
        ("clean accuracy,,,0,0.8,0.9,0.95,8,10", "value is not between lower and upper"),
        ("clean accuracy,,,0,0.8,0.5,0.7,8,10", "value is not between lower and upper"),
        ("vanishing gradients,,,0,1.2,0.5,1.3,12,10", "correct is not between 0 and total"),
    ],
)
def test_read_run_refuses_figures_that_contradict_themselves(
    write_run: WriteRun, row: str, fault: str
) -> None:
    folder = write_run()
    file = folder / "measurements.csv"
    file.write_text(f"{_HEADER}clean accuracy,,,0,0.5,0.2,0.8,5,10\n{row}\n")
    message = rf"measurements.csv is damaged: in row 2, [a-z ]+, {fault}"
    with pytest.raises(RunFolderError, match=message):
        read_run(folder)
