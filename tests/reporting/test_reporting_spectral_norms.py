"""The page's section on spectral norms over the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from withstand.reporting import report
from withstand.reporting.axes import logarithmic
from withstand.reporting.history import panels_of_run, panels_of_runs
from withstand.reporting.read import read_run
from withstand.reporting.spectral_norms import view_spectral_norms

WriteRun = Callable[..., Path]

_COLUMNS = [
    *("spectral/network/proven", "spectral/network/sampled"),
    *("spectral/network.3/sampled", "spectral/network.3/proven", "spectral/network.3/surrogate"),
    *("spectral/net/work/sampled", "spectral/network.9/sampled", "spectral/network.9/else"),
]
_TRAINING = f"""\
epoch,progress,seconds,learning_rate,loss,note,{",".join(_COLUMNS)}
1,1,4.5,0.1,2.25,,100,2,1.5,3,2,7,,1
2,2,4.4,0.1,2.3,back,200,3,1.25,2.5,1.75,8,,1
"""


def test_one_figure_a_layer_and_the_whole_network_last(write_run: WriteRun) -> None:
    history = read_run(write_run(training=_TRAINING)).history
    assert history is not None
    view = view_spectral_norms(history)
    assert view is not None
    assert [figure.title for figure in view.figures] == [
        "Layer network.3",
        "Layer net/work",
        "The whole network",
    ]
    assert [kind for kind, _ in view.kinds] == ["sampled", "surrogate", "proven"]
    assert [[*row.numbers] for row in view.rows] == [
        ["1.25", "1.75", "2.5"],
        ["8", "—", "—"],
        ["3", "—", "200"],
    ]
    layer, _, whole = view.figures
    curves = {trace["name"]: trace["y"] for trace in layer.plot["data"] if "name" in trace}
    assert curves == {"sampled": [1.5, 1.25], "surrogate": [2, 1.75], "proven": [3, 2.5]}
    assert layer.plot["layout"]["yaxis"]["title"]["text"] == "spectral norm"
    assert layer.plot["layout"]["yaxis"].get("type") != "log"
    assert whole.plot["layout"]["yaxis"]["type"] == "log"  # from 2 to 200
    assert "logarithmic" in whole.caption


def test_they_are_drawn_there_alone(write_run: WriteRun) -> None:
    folder = write_run(training=_TRAINING)
    history = read_run(folder).history
    assert history is not None
    titles = [trace.name for panel in panels_of_run(history) for trace in panel.traces]
    assert not [title for title in titles if "spectral" in title]
    assert not [panel for panel in panels_of_runs({"a": history}) if "pectral" in panel.title]
    text = report(folder).read_text(encoding="utf-8")
    assert ">Spectral norms over training</h2>" in text
    assert "spectral/network.3/sampled" in text  # in the table of the training


def test_without_them_there_is_no_section(write_run: WriteRun) -> None:
    text = report(write_run()).read_text(encoding="utf-8")
    assert "Spectral norms" not in text


def test_a_norm_of_0_keeps_the_axis_linear(write_run: WriteRun) -> None:
    training = "epoch,spectral/a/sampled,spectral/a/proven\n1,0,5\n2,1,50\n"
    history = read_run(write_run(training=training, only={"train.csv"})).history
    assert history is not None
    view = view_spectral_norms(history)
    assert view is not None
    assert view.figures[0].plot["layout"]["yaxis"].get("type") != "log"


def test_ticks_of_a_logarithmic_axis_are_written_out() -> None:
    axis = logarithmic([2.0, 200.0])
    assert axis["ticktext"] == ["2", "5", "10", "20", "50", "100", "200"]
    low, high = axis["range"]
    assert 10**low < 2.0
    assert 10**high > 200.0
