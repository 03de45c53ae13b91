"""The units of the data: what of the user's values 0 and 1 stand for."""

from __future__ import annotations

from withstand.core.dataset_info import feature_name, feature_of, form_of
from withstand.reporting.formatting import cell
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Cell, Prose, Section, Table

PLACE = 5
_SHOWN_OPEN = 12  # rows of a range that are not folded
_AN_EPSILON = 0.05


def section(run: Run) -> Section | None:
    """The range of each feature or channel; None where the data were in [0, 1]."""
    inputs = run.results.inputs if run.results else None
    if inputs is None or not inputs.low:
        return None
    feature = feature_of(inputs.shape)
    rows: list[list[Cell | str]] = [
        [
            Cell(feature_name(inputs.shape, inputs.feature_names, index), is_words=True),
            cell(low),
            cell(high),
            cell(_AN_EPSILON * (high - low)),
        ]
        for index, (low, high) in enumerate(zip(inputs.low, inputs.high, strict=True))
    ]
    table = Table(
        "Ranges",
        [feature.capitalize(), "Lowest", "Highest", f"{_AN_EPSILON:g} of the range"],
        rows,
        PROSE["inputs"]["table"].format(feature=feature),
        is_folded=len(rows) > _SHOWN_OPEN,
    )
    lead = f"The data are {form_of(inputs.shape)}. {PROSE['inputs']['lead'].format(feature=feature)}"
    return Section("inputs", "Units and ranges of the data", "about", prose=[Prose(lead)], tables=[table])
