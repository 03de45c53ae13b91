"""Verifies all instances of a benchmark, one after another, and goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from withstand.core.run_folder import RunFolder
from withstand.reporting.find import write_text
from withstand.reporting.verification_page import verification_page
from withstand.results.instances import InstanceRow, read_instances, read_rows, write_rows
from withstand.runs.instance_worker import key_of, run_instance

OnRow = Callable[[int, int, InstanceRow, bool], None]
RESULTS, PAGE, COUNTEREXAMPLES = "results.csv", "verify.html", "counterexamples"


def verify_instances(
    file: Path | str,
    out: Path | str,
    *,
    timeout: float | None = None,
    on_row: OnRow | None = None,
) -> list[InstanceRow]:
    """Verifies the instances of a benchmark, each in a process of its own, and writes rows and a page.

    A row that is there already stays where network, property, timeout and this package's code are what they
    were. An instance that fails is a row ``error`` with its message.

    Args:
        file: ``instances.csv``, of lines ``net.onnx,property.vnnlib,seconds``; names are relative to it.
        out: The folder for ``results.csv``, ``verify.html`` and ``counterexamples/``.
        timeout: At most so many seconds an instance; and of those for which the file says none.
        on_row: Told how many instances are done, of how many, the row of the last, and whether that is new.

    Returns:
        A row an instance, in the order of the file.

    Raises:
        DataError: there are no instances.
        RunFolderError: the folder cannot be written, or holds files of others.
    """
    instances = read_instances(Path(file), timeout=timeout)
    folder = RunFolder.at(out).create([RESULTS, PAGE])
    with folder.held("verifying"):
        former = {row.key: row for row in read_rows(folder.path / RESULTS) if row.key}
        keys = [key_of(instance) for instance in instances]
        rows: list[InstanceRow] = []
        try:
            for number, (instance, key) in enumerate(zip(instances, keys, strict=True), start=1):
                kept = former.get(key)
                row = kept
                if row is None:
                    row, counterexample = run_instance(instance)
                    row = replace(row, key=key)
                    if counterexample:
                        # By its key, since numbers change with the file of instances.
                        write_text(folder.path / COUNTEREXAMPLES / f"{key}.txt", counterexample + "\n")
                rows.append(row)
                later = [former[known] for known in keys[number:] if known in former]
                write_rows(folder.path / RESULTS, [*rows, *later])
                if on_row is not None:
                    on_row(number, len(instances), row, kept is None)
        finally:
            if rows:
                verification_page(rows, folder.path / PAGE, total=len(instances))
    return rows
