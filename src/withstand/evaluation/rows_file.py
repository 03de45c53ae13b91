"""Where the rows of an evaluation grow batch by batch, beside those of a former one until they are whole."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import pandas as pd

from withstand.run_folder import RunFolder
from withstand.types import CertificateError, RunFolderError


class RowsFile:
    """``examples.csv`` of a run folder, as a context.

    Rows are written to a file beside it. That takes its place when all is well; when the run folder holds
    no whole evaluation that would be lost; or when a certificate is wrong, since the former figures are not
    to be trusted then either.

    Args:
        run: The run folder; nothing is written where None.
    """

    def __init__(self, run: RunFolder | None) -> None:
        self._run = run
        self._has_rows = False

    def __enter__(self) -> RowsFile:
        if self._run is not None:
            self._growing(self._run).unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run = self._run
        if run is None or not self._has_rows:
            return
        if isinstance(error, CertificateError):
            for former in (run.metrics, run.measurements):
                former.unlink(missing_ok=True)
        if kind is None or isinstance(error, CertificateError) or not run.metrics.exists():
            self._show(run)
        else:
            self._growing(run).unlink(missing_ok=True)

    def _show(self, run: RunFolder) -> None:
        try:
            os.replace(self._growing(run), run.examples)
        except OSError as gone:
            raise RunFolderError(
                f"Cannot write {run.examples}: {gone.strerror or gone}. What was found is kept, and the same "
                "command goes on."
            ) from gone

    def add(self, frame: pd.DataFrame) -> None:
        """Writes the rows of one more batch.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        if self._run is None:
            return
        path, is_first = self._growing(self._run), not self._has_rows
        try:
            frame.to_csv(path, mode="w" if is_first else "a", header=is_first, index=False)
        except OSError as error:
            raise RunFolderError(
                f"Cannot write {path}: {error.strerror or error}. What was found before is kept: free the "
                "disk, and the same command goes on."
            ) from error
        self._has_rows = True

    def shown_name(self) -> str:
        """Where the rows so far are found after a wrong certificate; empty if nowhere."""
        return "" if self._run is None else str(self._run.examples)

    @staticmethod
    def _growing(run: RunFolder) -> Path:
        return run.examples.with_name(".examples.csv.part")
