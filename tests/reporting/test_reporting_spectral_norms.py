"""The page's section on spectral norms over the training."""

from __future__ import annotations

from typing import Any

from withstand.reporting import report
from withstand.reporting.figures import logarithmic
from withstand.reporting.history import panels_of_run, panels_of_runs
from withstand.reporting.sections import training

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


def test_spectral_norms_have_a_figure_a_layer_and_the_whole_network_last(make_run: Any, build: Any) -> None:
    shown = training.spectral_norms(make_run(training=_TRAINING))
    assert shown is not None
    assert [figure.title for figure in shown.figures] == [
        "Layer network.3",
        "Layer net/work",
        "The whole network",
    ]
    assert [kind for kind, _ in shown.descriptions] == ["sampled", "surrogate", "proven"]
    assert [build.texts(row) for row in shown.tables[0].rows] == [
        ["Layer network.3", "1.25", "1.75", "2.5"],
        ["Layer net/work", "8", "—", "—"],
        ["The whole network", "3", "—", "200"],
    ]
    layer, _, whole = shown.figures
    curves = {
        trace["name"]: trace["y"] for trace in layer.plot["data"] if trace.get("showlegend") is not False
    }
    assert curves == {"sampled": [1.5, 1.25], "surrogate": [2, 1.75], "proven": [3, 2.5]}
    assert layer.plot["layout"]["yaxis"]["title"]["text"] == "spectral norm"
    assert layer.plot["layout"]["yaxis"].get("type") != "log"
    assert whole.plot["layout"]["yaxis"]["type"] == "log"  # from 2 to 200
    assert "logarithmic" in whole.caption


def test_spectral_norms_are_drawn_in_their_section_alone(make_run: Any) -> None:
    run = make_run(training=_TRAINING)
    titles = [trace.name for panel in panels_of_run(run.history) for trace in panel.traces]
    assert not [title for title in titles if "spectral" in title]
    assert not [panel for panel in panels_of_runs({"a": run.history}) if "pectral" in panel.title]
    text = report(run.path).read_text(encoding="utf-8")
    assert ">Spectral norms over training</h2>" in text
    assert "spectral/network.3/sampled" in text  # in the table of the training


def test_spectral_norm_of_0_leaves_the_axis_linear(make_run: Any) -> None:
    columns = "epoch,spectral/a/sampled,spectral/a/proven\n1,0,5\n2,1,50\n"
    shown = training.spectral_norms(make_run(training=columns, only={"train.csv"}))
    assert shown is not None
    assert shown.figures[0].plot["layout"]["yaxis"].get("type") != "log"


def test_ticks_of_a_logarithmic_axis_are_written_out() -> None:
    axis = logarithmic([2.0, 200.0])
    assert axis["ticktext"] == ["2", "5", "10", "20", "50", "100", "200"]
    low, high = axis["range"]
    assert 10**low < 2.0
    assert 10**high > 200.0
