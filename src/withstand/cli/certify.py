"""The command ``withstand certify``: certificates of a run, or of a model that was trained elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from withstand.cli.arguments import is_model, parse, plain_parser, requested_sizes, target
from withstand.cli.commands import COMMANDS
from withstand.cli.console import print_results
from withstand.cli.model_or_run import WHAT, add_measured_arguments, measured
from withstand.cli.terminal import OUTPUT, progress_of
from withstand.evaluation import Evaluation
from withstand.evaluation.meters import Certificate
from withstand.runs.run_parts import open_run
from withstand.runs.stages import former_evaluation, measure_run
from withstand.types import RecipeError


def certify(arguments: Sequence[str]) -> None:
    """Certifies a run or a model, and writes rows, metrics and curve."""
    parser = _parser()
    name, overrides = target("certify", WHAT, arguments, parser)
    values = parse(parser, overrides)
    request = _request(values)
    command = shlex.join(["withstand", "certify", name, *overrides])
    if is_model(name) and not Path(name).is_dir():
        request.certificates([])
    with (
        measured(name, values, overrides, doing="certifying", command=command) as what,
        progress_of("certifying") as on_batch,
    ):
        result = certify_run(what.folder, request, what.overrides, command=command, on_batch=on_batch)
    print_results(result.results, result.table)
    OUTPUT.print(f"next: withstand report {what.folder}", soft_wrap=True)


def _parser() -> ArgumentParser:
    parser = plain_parser(
        "withstand certify RUN|MODEL",
        COMMANDS["certify"].about,
    )
    parser.add_class_arguments(Request, as_group=False)
    add_measured_arguments(parser)
    return parser


def _request(values: Namespace) -> Request:
    requested = {field.name: values[field.name] for field in fields(Request)}
    return Request(**{**requested, **requested_sizes(values)})


@dataclass(frozen=True)
class Request:
    """What to certify; what is None is as the run's last evaluation or its recipe says.

    Args:
        norm: 1, 2 or inf.
        epsilons: Budgets in [0, 1] units, such as [0.5, 1.58] or [8/255].
        method: The domain to bound with, best where neither evaluation nor recipe certifies; several, such as
            box_ball,linear, are measured beside each other.
        clip: Whether the attacker stays in [0, 1].
        radius: Compute the largest certified epsilon of each example, too.
        timeout: Seconds an example, at each epsilon, that branch-and-bound may take.
        num_examples: How many test examples, of each class its share; all where null.
        batch_size: Examples a batch.
    """

    norm: float | None = None
    epsilons: list[float] | float | None = None
    method: str | list[str] | None = None
    clip: bool | None = None
    radius: bool | None = None
    timeout: float | None = None
    num_examples: int | None = None
    batch_size: int | None = None

    def certificates(self, known: Sequence[Certificate]) -> list[Certificate]:
        """The certificates of a recipe with what is asked for in their place; else one that is.

        Args:
            known: Of the recipe.

        Raises:
            RecipeError: neither says what to certify, or a value does not fit.
        """
        epsilons = [float(self.epsilons)] if isinstance(self.epsilons, float | int) else self.epsilons
        asked = {"epsilons": epsilons, "clip": self.clip, "radius": self.radius, "timeout": self.timeout}
        requested: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        of_norm = [certificate for certificate in known if self.norm in (None, certificate.norm)]
        try:
            if of_norm:
                changed = [
                    Certificate(**{**asdict(certificate), **requested, **method})
                    for method in self._methods
                    for certificate in of_norm
                ]
                return list({certificate.name: certificate for certificate in changed}.values())
            if self.norm is None or epsilons is None:
                raise RecipeError(
                    "There is no certificate in the recipe, so say what to certify: "
                    "--norm=2 --epsilons=[0.5,1.58], or --norm=inf --epsilons=[8/255]."
                )
            return [Certificate(norm=self.norm, **requested, **method) for method in self._methods]
        except ValueError as error:
            raise RecipeError(str(error)) from error

    @property
    def _methods(self) -> list[dict[str, Any]]:
        """Of each method what is asked for; nothing where none is."""
        methods = self.method.split(",") if isinstance(self.method, str) else self.method or []
        if self.timeout is not None and methods and "branch-and-bound" not in map(str.strip, methods):
            raise RecipeError("--timeout is of --method=branch-and-bound alone; leave it out or ask for it.")
        return [{"method": method.strip()} for method in methods] or [{}]


def certify_run(
    folder: Path,
    request: Request,
    overrides: Sequence[str] = (),
    *,
    command: str,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Certifies a trained run, beside the results of its last evaluation.

    Args:
        folder: The run folder; a run that was never evaluated is scored clean as well.
        request: What to certify.
        overrides: ``--key=value`` of its recipe, such as ``--data.root=PATH``.
        command: The command that repeats it, for ``environment.json``.
        on_batch: Told how many examples are done, of how many.

    Raises:
        WithstandError: of the part that failed; nothing that was written before is lost.
    """
    run, own = open_run(folder)
    former = (former_evaluation(run) or own).recipe.evaluation.meters
    known = [meter for meter in (*former, *own.recipe.evaluation.meters) if isinstance(meter, Certificate)]
    certificates = request.certificates(known)
    meters = [{"class_path": "Certificate", "init_args": asdict(certificate)} for certificate in certificates]
    sizes = {"num_examples": request.num_examples, "batch_size": request.batch_size}
    return measure_run(
        folder,
        meters,
        sizes={key: value for key, value in sizes.items() if value is not None},
        overrides=overrides,
        command=command,
        stage="certify",
        on_batch=on_batch,
    )
