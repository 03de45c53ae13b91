"""Goes through test data batch by batch: rows, and what is summed over all of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from withstand.certificates.consistency import require_consistent
from withstand.data import batches
from withstand.evaluation.meter import Columns, Counts, PartResult
from withstand.evaluation.run_files import RowsFile
from withstand.evaluation.work import Work
from withstand.evaluation.workers import Workers
from withstand.results.results import Target


@dataclass
class SplitScores:
    """What all batches gave, by what it is of: a meter's or certificate's name, or an attack at a budget.

    Attributes:
        rows: One row an example.
        counts: Sums over all batches.
        states: Arrays (examples, …); of an attack by meter and name.
    """

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    counts: dict[str | Target, Counts] = field(default_factory=lambda: defaultdict(dict))
    _states: dict[str | Target, list[Columns]] = field(default_factory=lambda: defaultdict(list))

    def add(self, owner: str | Target, result: PartResult) -> None:
        """Adds what one more batch gave."""
        before = self.counts[owner]
        self.counts[owner] = {key: value + before.get(key, 0) for key, value in result.counts.items()}
        self._states[owner].append(result.state)

    def state(self, owner: str | Target, prefix: str = "") -> Columns:
        """The state of all batches, of the names that begin so."""
        parts = self._states.get(owner, [])
        names = [name for name in (parts[0] if parts else {}) if name.startswith(prefix)]
        return {name.removeprefix(prefix): np.concatenate([part[name] for part in parts]) for name in names}


def score_split(work: Work, workers: Workers, rows_file: RowsFile) -> SplitScores:
    """The rows of all examples, and what was counted of them.

    Args:
        work: All batches.
        workers: Who scores them.
        rows_file: Where the rows grow batch by batch.

    Raises:
        AttackError: an attack left its ball or [0, 1].
        CertificateError: a certificate is wrong; the rows so far are written.
        ClusterError: Ray's workers end again and again, or do not start.
        ProcessError: another process of the group has ended.
        RunFolderError: the folder cannot be written.
    """
    split_scores, frames = SplitScores(), []
    subject = work.subject
    places = torch.split(subject.places, subject.batch_size)
    with workers.scoring(work) as scores_of_batches:
        for scores, index in zip(scores_of_batches, places, strict=True):
            for owner, result in scores.results:
                split_scores.add(owner, result)
            frames.append(pd.DataFrame(scores.columns))
            rows_file.add(frames[-1])
            named = [replace(wrong, rows=index[list(wrong.rows)].tolist()) for wrong in scores.violations]
            require_consistent(named, 0, rows_file.shown_name())
            if len(frames) == 1:  # after the batch, whose contradictions name examples
                for prover in work.batch_plan.provers:
                    prover.require_known_answers(next(batches(subject.test, 1)).images[0])
    split_scores.rows = pd.concat(frames, ignore_index=True)
    return split_scores
