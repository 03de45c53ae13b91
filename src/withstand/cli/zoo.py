"""The command ``withstand zoo``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Column, Table

from withstand.cli.arguments import parse, plain_parser
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import OUTPUT
from withstand.core.suggest import nearest
from withstand.core.writing import percent
from withstand.core.zoo import ZooNet, zoo_nets
from withstand.reporting import table
from withstand.reporting.formatting import budget, count, memory
from withstand.reporting.naming import run_title
from withstand.reporting.read import Run, read_run
from withstand.reporting.sections.origin import commands_of
from withstand.results.measurements import Measurement
from withstand.types import ModelError

_FORMATS = ("text", "json")
_DASH = "\N{EM DASH}"


def zoo(arguments: Sequence[str]) -> None:
    """Lists the nets of the zoo, or prints all that is known of some.

    Raises:
        ModelError: there is no net of a name.
        RunFolderError: the files of a net are damaged.
    """
    parser = plain_parser("withstand zoo", COMMANDS["zoo"].about)
    parser.add_argument("names", nargs="*", type=str, help="Nets; all where none is named.")
    parser.add_argument("--format", choices=_FORMATS, default=_FORMATS[0], help="What to print.")
    values = parse(parser, arguments)
    nets = zoo_nets()
    for name in values.names:
        if name not in nets:
            raise ModelError(f"There is no net {name!r} in the zoo; {nearest(name, nets)}")
    chosen = {name: nets[name] for name in values.names or nets}
    if values.format == "json":
        texts = [_as_dict(name, net) for name, net in chosen.items()]
        OUTPUT.print(json.dumps(texts, indent=2, ensure_ascii=False), soft_wrap=True, markup=False)
        return
    columns = ("clean", "attacked", "proven", "parameters", "size")  # a name begins with that of the data
    names = Column("net", no_wrap=True), Column("at", no_wrap=True)
    listed = Table(*names, *columns, box=None, padding=(0, 1, 0, 0))  # narrow enough for 80 columns
    for name, net in chosen.items():
        listed.add_row(name, *_cells(net))
    OUTPUT.print(listed)
    OUTPUT.print(
        "Accuracy on test images: under the strongest attack that was tried, and proven, at that epsilon. "
        "ws.load(NAME); withstand evaluate | certify | attack | moments | check | export NAME.",
        soft_wrap=True,
    )


def _cells(net: ZooNet) -> list[str]:
    run = read_run(net.folder)
    shares = [None if row is None else row.value for row in _rows(run, net)]
    return [
        budget(net.norm, net.epsilon),
        *(_DASH if value is None else percent(value) for value in shares),
        count(net.num_parameters),
        memory(net.num_bytes),
    ]


def _rows(run: Run, net: ZooNet) -> tuple[Measurement | None, ...]:
    """Clean, attacked and certified accuracy; None where one was not measured at the net's epsilon."""
    at_epsilon = (
        table.at(chosen, net.norm, net.epsilon)
        for chosen in (table.strongest(run), table.most_certified(run))
    )
    return (table.clean(run), *at_epsilon)


def _as_dict(name: str, net: ZooNet) -> dict[str, Any]:
    net.require_whole()
    run = read_run(net.folder)
    names = ("clean", "attacked", "certified")
    figures = {
        kind: None if row is None else asdict(row) for kind, row in zip(names, _rows(run, net), strict=True)
    }
    made = run.environment
    return {
        "name": name,
        "title": run_title(run),
        "data": run.results.dataset if run.results else None,
        "data_licence": net.data_licence,
        "norm": net.norm,
        "epsilon": net.epsilon,
        **figures,
        "num_parameters": net.num_parameters,
        "num_bytes": net.num_bytes,
        "seed": made.seed if made else None,
        "commands": commands_of(run),
        "versions": made.versions if made else {},
        "sha256": dict(net.sha256),
    }
