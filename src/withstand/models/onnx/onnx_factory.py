"""Networks by the name of an ONNX file, for data of a shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from withstand.models.blocks import Shape
from withstand.models.hosted import HostedFactory
from withstand.models.layers import Normalize
from withstand.models.onnx.examples import count
from withstand.models.onnx.onnx_file import OnnxFile, digest_of_files, files_of, read_file
from withstand.models.onnx.onnx_network import OnnxNetwork
from withstand.models.onnx.onnx_runtime import require_same
from withstand.types import ModelError

_ENDINGS = ("Softmax", "LogSoftmax", "Sigmoid")
_TRIED = 8  # inputs
_KEEPING = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class OnnxFactory(HostedFactory):
    """Makes the network of an ONNX file.

    Args:
        name: Of the file, for messages.
        file: Its path.
    """

    file: Path = field(kw_only=True)

    def __call__(
        self,
        input_shape: Shape | None = None,
        num_classes: int | None = None,
        *,
        logits: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> nn.Module:
        """The network of the file, compared with what onnxruntime makes of it.

        Args:
            input_shape: Of the data; as the file has it where None.
            num_classes: Of the data; as many as the file has outputs where None.
            logits: Whether a softmax or sigmoid at its end is left out.
            mean: What is taken from each channel of the inputs before the network; nothing where None.
            std: What they are divided by then.

        Raises:
            ModelError: what it needs is not installed; the file is damaged, has what is not read, does not
                give what onnxruntime gives, or does not fit the data.
        """
        network = read(self.file, input_shape, logits=logits, say=self.say)
        outputs = network.num_outputs
        if num_classes is not None and outputs != num_classes and (outputs, num_classes) != (1, 2):
            raise ModelError(f"it has {outputs} outputs, but the data have {num_classes} classes.")
        if (mean is None) != (std is None):
            raise ModelError("it takes both mean and std, or neither.")
        if mean is None or std is None:
            if input_shape is not None:
                self.say(
                    "it is given the data as they are, in [0, 1]; where it was trained on others, say by "
                    "which mean and deviation of the channels: --model.options={mean: [0.5], std: [0.25]}"
                )
            return network
        return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), network=network))


def read(
    file: Path,
    input_shape: Shape | None = None,
    *,
    logits: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> OnnxNetwork:
    """The network of an ONNX file, in eval mode, compared with what onnxruntime makes of the file.

    Args:
        file: The path; weights that it keeps in other files lie beside it.
        input_shape: Of one example of the data, where that may be another than the file's: flat or not.
        logits: Whether a softmax or sigmoid at its end is left out.
        say: Is told what is done that was not asked for.

    Returns:
        Maps (batch, *input_shape) to (batch, outputs).

    Raises:
        ModelError: what it needs is not installed; the file is damaged, has what is not read, does not give
            what onnxruntime gives, or takes inputs of another shape.
    """
    digest = digest_of_files(files_of(file))
    content = read_file(file)
    file_shape = _file_shape(file, content, input_shape)
    own = file_shape[1:] if file_shape[0] == 1 and len(file_shape) > 1 else file_shape
    given = own if input_shape is None else _accepted(file, own, tuple(input_shape), say)
    network = OnnxNetwork(content, file_shape, given, digest).eval()
    require_same(network, file, is_open=content.input_sizes[0] is None)
    ending, without = _ending(content)
    if without is None and logits:
        raise ModelError(f"{file} does not end in {', '.join(_ENDINGS)}; leave out logits=True.")
    if without is not None and logits:
        return OnnxNetwork(without, file_shape, given, f"{digest} without {ending}").eval()
    if without is not None:
        say(
            f"it ends in {ending}; where logits are wanted, ws.models.create(FILE, logits=True), or on the "
            "command line --model.options={logits: true}, leaves that out"
        )
    return network


def read_logits(file: Path, network: OnnxNetwork) -> OnnxNetwork | None:
    """The network of a file without the softmax or sigmoid of all its outputs at its end, in eval mode.

    Args:
        file: The ONNX file.
        network: What ``read`` gave of it.

    Returns:
        As the network, with logits; None where it does not end so.
    """
    _, without = _ending(read_file(file))
    if without is None:
        return None
    logits = OnnxNetwork(without, network.file_shape, network.input_shape, network.digest).eval()
    inputs = torch.rand(_TRIED, *network.input_shape, generator=torch.Generator().manual_seed(0))
    like = next(chain(network.parameters(), network.buffers()), inputs)
    with torch.no_grad():
        answers, scores = (part(inputs.to(like)).double() for part in (network, logits))
    # Of a softmax along another dimension than all outputs, say, the order is another.
    endings = (torch.softmax(scores, 1), torch.log_softmax(scores, 1), torch.sigmoid(scores))
    return logits if any(torch.allclose(answers, ending, atol=1e-5) for ending in endings) else None


def _file_shape(file: Path, content: OnnxFile, data: Shape | None) -> Shape:
    """The shape of the file's input for one example, with a batch of one where it has a batch."""
    sizes = content.input_sizes
    if not sizes:
        raise ModelError(f"{file} takes a single number, or does not say of which shape its input is.")
    has_batch = len(sizes) > 1 and sizes[0] in (None, 1)
    rest = sizes[1:] if has_batch else sizes
    if data is not None and len(data) == len(rest):
        rest = tuple(given if size is None else size for size, given in zip(rest, data, strict=True))
    known = tuple(size for size in rest if size is not None)
    if len(known) < len(rest):
        shown = ", ".join("?" if size is None else str(size) for size in sizes)
        raise ModelError(
            f"{file} leaves open of which size its inputs are, ({shown}). Say which data they are: dataset=… "
            "or input_shape=…, on the command line --data.name=NAME, or of `withstand verify` "
            "--input_shape=[1,28,28]."
        )
    if len(sizes) > 1 and not has_batch and data != known and content.output_sizes[:1] == sizes[:1]:
        raise ModelError(
            f"{file} seems to be for batches of exactly {sizes[0]}: it takes {known} and gives "
            f"{content.output_sizes}. Export it for a batch of 1, or of any size."
        )
    return (1, *known) if has_batch else known


def _accepted(file: Path, own: Shape, data: Shape, say: Callable[[str], None]) -> Shape:
    """The shape of the data, where the file's inputs are surely the same numbers in the same order."""
    bare, bare_data = (tuple(size for size in shape if size != 1) for shape in (own, data))
    if bare == bare_data:
        return data
    if count(own) == count(data) and min(len(bare), len(bare_data)) <= 1:
        say(f"it takes examples of shape {own}; those of shape {data} are given to it channel by channel")
        return data
    remedy = (
        "Its channels seem to come last: in a file of your own, name a function that makes a module which "
        "calls ws.load(FILE) on images.permute(0, 2, 3, 1)"
        if sorted(bare) == sorted(bare_data)
        else "Take the data that it is for; or in a file of your own, name a function that makes a module "
        "which brings images into its shape, and calls ws.load(FILE)"
    )
    raise ModelError(
        f"{file} takes examples of shape {own}, but those of the data are of shape {data}. {remedy}: "
        "path/to/file.py:function."
    )


def _ending(content: OnnxFile) -> tuple[str, OnnxFile | None]:
    """The softmax or sigmoid at a file's end, and the file without it; None where there is none."""
    wanted = content.output_name
    for place in reversed(range(len(content.nodes))):
        node, proto = content.nodes[place]
        if wanted not in node.outputs:
            continue
        if node.op in _ENDINGS:
            passed = node._replace(op="Identity", attributes={})
            nodes = [*content.nodes[:place], (passed, proto), *content.nodes[place + 1 :]]
            return node.op, content._replace(nodes=nodes)
        if node.op not in _KEEPING:
            break
        wanted = node.inputs[0]
    return "", None
