from __future__ import annotations

from typing import Any

import pytest

from withstand.reporting.history import (
    best_epoch,
    events,
    history_table,
    panels_of_run,
    panels_of_runs,
    training_figure,
)
from withstand.reporting.read import History


def history(**columns: list[float | None]) -> History:
    rows = len(next(iter(columns.values())))
    return History({"epoch": [float(row + 1) for row in range(rows)], **columns}, [""] * rows)


def test_panels_of_run_sort_columns_by_kind() -> None:
    panels = panels_of_run(
        history(
            seconds=[1, 2],
            learning_rate=[0.1, 0.1],
            loss=[2, 1],
            adversarial=[2, 1],
            epsilon=[0.1, 0.2],
            train_accuracy=[0.1, 0.2],
            validation_accuracy=[None, 0.3],
            collapsed=[0, 0],
            empty=[None, None],
        )
    )
    assert {panel.title: [trace.name for trace in panel.traces] for panel in panels} == {
        "Loss": ["loss"],
        "Accuracy": ["train accuracy", "validation accuracy"],
        "Epsilon": ["epsilon"],
        "Learning rate": ["learning rate"],
        "Other terms": ["adversarial"],
    }
    assert [panel.title for panel in panels if panel.is_share] == ["Accuracy"]


def test_progress_is_the_axis_where_there_is_one() -> None:
    assert panels_of_run(history(loss=[2, 1]))[0].traces[0].progress == [1, 2]
    assert panels_of_run(history(loss=[2, 1], progress=[0.5, 1]))[0].traces[0].progress == [0.5, 1]


def test_scores_of_epochs_now_and_then_are_joined_and_other_gaps_are_not() -> None:
    panels = panels_of_run(history(validation_accuracy=[None, 0.3, None, 0.5], loss=[2.0, None, 1.0, 1.0]))
    drawn = {panel.title: training_figure(panel).plot["data"][0] for panel in panels}
    assert {title: line["connectgaps"] for title, line in drawn.items()} == {"Loss": False, "Accuracy": True}
    assert best_epoch(history(validation_accuracy=[None, 0.3, None, 0.2])) == (2, 4)


def test_panels_of_runs_overlay_shared_columns() -> None:
    columns = {"a": history(loss=[2], lr=[1]), "b": history(loss=[3], kl=[4]), "c": history(kl=[5])}
    panels = panels_of_runs(columns)
    values = {panel.title: {trace.name: trace.values for trace in panel.traces} for panel in panels}
    assert list(values) == ["Loss", "Logged: KL divergence"]  # what one run alone has is in its own section
    assert values["Loss"] == {"a": [2], "b": [3]}
    assert values["Logged: KL divergence"] == {"b": [4], "c": [5]}
    assert [trace.series for panel in panels for trace in panel.traces] == [0, 1, 1, 2]
    assert len(panels_of_runs({"a": columns["a"]})) == 2


def test_events_name_collapses_and_notes_once() -> None:
    columns: dict[str, list[float | None]] = {
        "epoch": [1.0, 2.0, 3.0, 4.0],
        "collapsed": [0.0, 1.0, 1.0, None],
    }
    happened = events(History(columns, [" ", "", "collapsed; back to epoch 1", "resumed"]))
    assert happened == {
        1: "Epoch 2: collapsed",
        2: "Epoch 3: collapsed; back to epoch 1",
        3: "Epoch 4: resumed",
    }


def test_events_mark_the_curves() -> None:
    drawn = panels_of_run(history(loss=[2, 1], collapsed=[0, 1]))[0].traces[0]
    assert drawn.marks == {1: "Epoch 2: collapsed"}


def test_history_table_holds_the_newest_rows() -> None:
    header, rows = history_table(history(loss=[*range(300)], empty=[None] * 300))
    assert header == ["epoch", "loss"]
    assert len(rows) == 200
    assert rows[-1] == ["300", "299"]


def test_history_without_epochs_is_empty() -> None:
    empty = History({"epoch": [], "loss": []}, [])
    assert panels_of_run(empty) == []
    assert events(empty) == {}
    assert history_table(empty) == ([], [])


@pytest.mark.parametrize(
    ("columns", "best"),
    [
        ({"validation_accuracy": [0.5, 0.9, 0.7]}, 2),
        ({"validation_accuracy": [0.5, 0.9, 0.9]}, 3),  # as training keeps the later of two as good
        ({"validation_accuracy": [0.5, 0.9, 0.7], "validation_robust_accuracy": [0.1, 0.2, 0.3]}, 3),
        ({"validation_accuracy": [0.5, 0.9, None]}, 2),
        ({}, 3),
        ({"validation_accuracy": [0.5, 0.4, 0.9], "collapsed": [0, 0, 1]}, 1),
        ({"validation_accuracy": [0.5, 0.9, 0.7], "epoch": [1, 2, 2]}, 2),  # epoch 2 was done again
    ],
)
def test_best_epoch_is_the_one_whose_weights_training_keeps(columns: dict[str, Any], best: int) -> None:
    every = {"epoch": [1.0, 2.0, 3.0], "collapsed": [0.0, 0.0, 0.0], **columns}
    found = best_epoch(History(every, ["", "", ""]))
    assert found is not None
    assert found == (best, int(max(every["epoch"])))


def test_best_epoch_of_a_training_that_only_collapsed_is_unknown() -> None:
    assert best_epoch(History({"epoch": [1.0], "collapsed": [1.0]}, [""])) is None
