"""The gradient of one step: of a batch that may be divided among processes, and further in each of them."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from withstand.core.batch_shares import Share, meeting, own_share, taking
from withstand.core.checks import is_out_of_memory
from withstand.core.processes import num_processes
from withstand.loss.terms import Objective, ReadyObjective
from withstand.training.checkpoint import rng_state, set_rng_state
from withstand.training.settings import TrainingSettings
from withstand.training.whole_batch import WholeBatch, depends_on_batch, running_statistics
from withstand.training.whole_weights import Weights
from withstand.types import Batch, LossTerms

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_logger = logging.getLogger(__name__)


class Gradients:
    """Leaves the gradient of a batch in what the optimiser changes, which is the same in all processes.

    A batch is divided among processes, each of which computes its rows; gradients, losses and terms are
    averages by rows, in one exchange a step. One with fewer rows than processes is computed by each of them.

    Args:
        fabric: Of the training.
        model: In train mode when a step is computed.
        objective: What to minimise.
        settings: Of the training.
        weights: Of the model.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        objective: Objective,
        settings: TrainingSettings,
        weights: Weights,
    ) -> None:
        self._fabric, self._objective, self._weights = fabric, objective, weights
        if settings.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compiled = cast(nn.Module, torch.compile(model)) if settings.compile else None
        self._compilations_before = _compilations() if settings.compile else Counter[str]()
        self._forward = model if self._compiled is None else self._compiled
        self._micro_batches = settings.micro_batches
        self._joins_statistics = settings.sync_batch_norm
        self._statistics = [] if settings.sync_batch_norm else running_statistics(model)
        self._channels_last = settings.channels_last
        self._depends_on_batch = depends_on_batch(model)
        self._ready: ReadyObjective | None = None

    def begin(self) -> None:
        """Checks the next batch and the model anew, which may have been changed since the last one."""
        self._ready = None

    def __call__(self, batch: Batch, total: int, progress: float) -> LossTerms:
        """Of the rows of this process.

        Args:
            batch: Its rows of the batch.
            total: How many rows the batch has in all processes.
            progress: Epochs done.

        Returns:
            Loss and terms of the whole batch.

        Raises:
            RuntimeError: memory runs out even for single rows, or with several processes at all.
        """
        with self._weights.whole():
            return self._of_batch(batch, own_share(total) or Share(0, total, total), progress)

    def _of_batch(self, batch: Batch, share: Share, progress: float) -> LossTerms:
        while True:
            try:
                result = self._of_parts(batch, share, progress)
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or not self._can_halve(len(batch.labels)):
                    raise
            self._halve(len(batch.labels))
        if self._compiled is not None:
            _tell_of_compilation(self._compilations_before)
            self._compiled = None
        return self._of_all(result, share) if num_processes() > 1 else result

    def _of_parts(self, batch: Batch, share: Share, progress: float) -> LossTerms:
        count = num_parts(share, self._micro_batches, num_processes())
        if count == 1:
            return self._of_part(batch, share, share, progress)
        before = rng_state()
        results: list[LossTerms] = []
        split = zip(*(torch.tensor_split(part, count) for part in batch), strict=True)
        for number, (images, labels) in enumerate(split):
            set_rng_state(before)  # each part draws for the whole batch
            part = share.part(number, count)
            results.append(self._of_part(Batch(images, labels), part, share, progress))
        return _added(results)

    def _of_part(self, batch: Batch, part: Share, share: Share, progress: float) -> LossTerms:
        """Adds the gradient of some rows to what is there; loss and terms by their share of the batch."""
        images, labels = batch
        if self._channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        weight = self._weight_of(part, share)
        with ExitStack() as stack:
            if part.size < part.total:
                stack.enter_context(taking(part))
                if share.size < share.total:
                    stack.enter_context(meeting(joins_statistics=self._joins_statistics))
                if self._depends_on_batch:
                    stack.enter_context(WholeBatch())
            if self._ready is None:
                self._ready = self._objective.ready(self._forward, images, labels)
            with self._fabric.autocast():
                result = self._ready(images, labels, progress)
            if weight == 1:
                self._backward(result.loss)
                return result
            loss = result.loss * weight
            self._backward(loss)
        terms = {name: value.detach() * weight for name, value in result.terms.items()}
        return LossTerms(loss.detach(), terms)

    def _backward(self, loss: Tensor) -> None:
        # As Fabric does it, which scales the loss for fp16, without what it does for wrapped models.
        self._fabric.strategy.precision.backward(loss, None)

    # -- several processes ---------------------------------------------------------------------------

    def _of_all(self, own: LossTerms, share: Share) -> LossTerms:
        """Adds up what the processes have: gradients and terms, and running statistics by their weight."""
        values = [value.detach().float().reshape(1) for value in (own.loss, *own.terms.values())]
        kept = [statistic * self._weight_of(share, share) for statistic in self._statistics]
        self._weights.add_up_([*values, *kept])
        for statistic, joined in zip(self._statistics, kept, strict=True):
            statistic.copy_(joined)
        loss, *terms = (value.squeeze(0) for value in values)
        return LossTerms(loss, dict(zip(own.terms, terms, strict=True)))

    @staticmethod
    def _weight_of(part: Share, share: Share) -> float:
        """What a part counts of the whole batch; a share that is whole is computed by every process."""
        is_whole = share.size == share.total
        return part.size / part.total / (num_processes() if is_whole else 1)

    # -- memory --------------------------------------------------------------------------------------

    def _can_halve(self, rows: int) -> bool:
        # Where one process runs out, the others already wait for what it has computed.
        return num_processes() == 1 and self._micro_batches < rows

    def _halve(self, rows: int) -> None:
        self._micro_batches = min(2 * self._micro_batches, rows)
        self._forward.zero_grad(set_to_none=True)
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.memory.empty_cache()
        _logger.warning(
            "Out of memory: from here on a step's %s images are computed in %s parts, one after another. "
            "What is largest over a batch, and the statistics of BatchNorm, are then those of a part. "
            "training.micro_batches=%s does so from the start.",
            *(rows, self._micro_batches, self._micro_batches),
        )


def num_parts(share: Share, most: int, processes: int) -> int:
    """Into how many parts a process divides its rows: as many as the others, since parts meet.

    Args:
        share: Of one process; whole where each computes the batch.
        most: That are asked for.
        processes: Among which a batch is divided.
    """
    fewest = share.size if share.size == share.total else share.total // processes
    return min(most, fewest)


def _compilations() -> Counter[str]:
    """Why graphs broke in this process -> how often; and under an empty reason how many there are."""
    from torch._dynamo.utils import counters  # which has no public name

    return Counter(counters["graph_break"]) + Counter({"": counters["stats"]["unique_graphs"]})


def _tell_of_compilation(before: Counter[str]) -> None:
    """Logs into how many graphs the first step came apart, and why.

    Args:
        before: What there was before it, of other models.
    """
    reasons = _compilations() - before
    graphs = reasons.pop("", 0)
    if not graphs:
        _logger.warning("torch.compile was not asked for a graph: the objective walks one of its own.")
    elif reasons:
        _logger.warning(
            "torch.compile made %s graphs of the model, with %s breaks, each of which costs time: %s",
            *(graphs, sum(reasons.values()), "; ".join(text.splitlines()[0] for text in reasons)),
        )
    else:
        _logger.info("torch.compile made %s graphs of the model, without a break.", graphs)


def _added(results: Sequence[LossTerms]) -> LossTerms:
    losses = torch.stack([result.loss for result in results])
    names = dict.fromkeys(name for result in results for name in result.terms)
    terms = {name: torch.stack([result.terms[name] for result in results]).sum() for name in names}
    return LossTerms(losses.sum(), terms)
