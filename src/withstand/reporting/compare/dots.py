"""Groups of runs in a figure: single runs as small marks, means as large ones with their intervals."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from withstand.reporting.figures import error_bars, series

# Behind the marks, on white and on near-black alike.
_BAR = {"color": "rgba(138,143,152,0.7)", "thickness": 1.2, "width": 3}


def dots(
    name: str, number: int, means: pd.DataFrame, runs: pd.DataFrame, *, mode: str = "markers", **more: Any
) -> list[go.Scatter]:
    """The traces of groups that share a look; none where there is nothing to draw.

    Args:
        name: What the legend calls them.
        number: Of the series, by which they look.
        means: A row a group: ``x``, ``y``, and ``text``, which pointing at it tells; with ``x_lower`` and
            ``x_upper`` or ``y_lower`` and ``y_upper`` an interval, of no length where these are not known.
        runs: A row a run of groups of several: ``x``, ``y`` and ``text``.
        mode: Of the means.
        **more: What else plotly's Scatter takes of the means.
    """
    small: dict[str, Any] = {"mode": "markers", "marker": {"size": 5, "opacity": 0.55}, "showlegend": False}
    large: dict[str, Any] = {"mode": mode, "marker": {"size": 10}, **more}
    for axis in [axis for axis in "xy" if f"{axis}_lower" in means]:
        value = means[axis]
        lower, upper = (means[f"{axis}_{end}"].fillna(value) for end in ("lower", "upper"))
        large[f"error_{axis}"] = error_bars(value, lower, upper) | _BAR
    return [
        series(name, list(rows.x), list(rows.y), number, texts=list(rows.text), legendgroup=name, **look)
        for rows, look in ((runs, small), (means, large))
        if len(rows)
    ]
