"""A run as a model card: Markdown with the metadata that the Hugging Face Hub reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from withstand._version import __version__
from withstand.reporting import table as of_run
from withstand.reporting.formatting import budget, dataset_note, dataset_title, measured, sentence
from withstand.reporting.naming import lookup, run_changes, run_description, run_title, setting
from withstand.reporting.read import Run, read_run
from withstand.reporting.sections.headlines import other_warnings
from withstand.reporting.sections.origin import commands_of, cost_rows
from withstand.reporting.tables import markdown, run_tables
from withstand.results import measurements
from withstand.results.measurements import Measurement
from withstand.types import ModelCard

_TASKS = {1: "tabular-classification", 3: "image-classification"}
"""Axes of an example -> what the Hub calls the task."""
_TAGS = ["adversarial-robustness", "withstand"]
_NAMES = {
    measurements.CLEAN: "Accuracy",
    measurements.ATTACKED: "Attacked accuracy, {at}",
    measurements.CERTIFIED: "Certified accuracy, {at}",
}


def model_card(run_dir: Path | str, *, source: str | None = None) -> ModelCard:
    """What is to be known of a run's model: how to load it, its figures, how they were measured, its limits.

    All figures are those of ``measurements.csv``.

    Args:
        run_dir: The run folder.
        source: From where the model is loaded, such as ``hub:OWNER/NAME``; the run folder where None.

    Returns:
        Markdown, with the Hub's metadata in front.

    Raises:
        RunFolderError: the folder is missing, damaged, or holds no run.
    """
    run = read_run(run_dir)
    results, environment = run.results, run.environment
    data = results.dataset if results else lookup(run.recipe, "data.name") or ""
    text = _template().render(
        metadata=yaml.safe_dump(_metadata(run, data), sort_keys=False, allow_unicode=True).strip(),
        title=run_title(run),
        description=run_description(run),
        changes=run_changes(run),
        setting=setting(run),
        source=source or str(run.path),
        data=dataset_title(data),
        data_note=dataset_note(data),
        summary=_summary(run),
        tables=[markdown(table) for table in run_tables(run)],
        methods=[sentence(method.description or method.name) for method in _methods(run)],
        warnings=[*map(sentence, _warnings(run))],
        is_certified=bool(results and results.certificates),
        commands=commands_of(run),
        facts=[*cost_rows(environment), *(environment.versions.items() if environment else [])],
        device=environment.device if environment else None,
    )
    return ModelCard(text)


def _template() -> Any:
    # Markdown, not HTML: nothing is escaped here, as the tables escape their cells themselves.
    loader = PackageLoader("withstand.reporting")
    templates = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return templates.get_template("card.md.j2")


def _methods(run: Run) -> list[Any]:
    return [*run.results.attacks, *run.results.certificates] if run.results else []


def _warnings(run: Run) -> list[str]:
    if run.results is None:
        return []
    failed = [f"{check.title}: {check.finding}" for check in run.results.checks if check.passed is False]
    return [*failed, *other_warnings(run.results)]


def _metadata(run: Run, data: str) -> dict[str, Any]:
    """The keys of a card that the Hub knows (huggingface.co/docs/hub/model-cards)."""
    rank = len(run.results.inputs.shape) if run.results and run.results.inputs else 3
    task = _TASKS.get(rank, "other")
    metadata: dict[str, Any] = {
        "library_name": "withstand",
        "pipeline_tag": task,
        "tags": _TAGS,
    }
    if rows := _main_rows(run):
        results = {
            "task": {"type": task},
            "dataset": {"name": dataset_title(data), "type": data},
            "metrics": [
                {"type": "accuracy", "name": _name(row), "value": round(row.value, 6)} for row in rows
            ],
        }
        metadata["model-index"] = [{"name": run_title(run), "results": [results]}]
    return metadata | {"withstand_version": __version__}


def _main_rows(run: Run) -> list[Measurement]:
    """Clean accuracy, and at each norm and epsilon the strongest attack and the best certificate."""
    if run.results is None:
        return []
    return [of_run.clean(run), *of_run.strongest(run), *of_run.most_certified(run)]


def _name(row: Measurement) -> str:
    return _NAMES[row.measure].format(at=budget(row.norm, row.level))


def _summary(run: Run) -> str:
    """The main rows as a table; empty where nothing was measured."""
    header = ["", "By", "Accuracy", "95 % interval", "Correct"]
    cells = [[_name(row), row.by or "\N{EM DASH}", *measured(row)] for row in _main_rows(run)]
    return (
        pd.DataFrame(cells, columns=header).to_markdown(index=False, disable_numparse=True) if cells else ""
    )
