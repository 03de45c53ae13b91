"""Networks of timm, where it is installed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from withstand.models.blocks import Shape
from withstand.models.hosted import Hosted, HostedFactory, as_image_shape, imported, require_head
from withstand.types import ModelError


class TimmFactory(HostedFactory):
    """Makes a network of timm."""

    def __call__(
        self,
        input_shape: Shape,
        num_classes: int,
        *,
        pretrained: bool = True,
        new_head: bool = False,
        image_size: int | Sequence[int] | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> nn.Module:
        """A network of timm, which fits its first layer to the channels itself.

        Args:
            input_shape: (channels, height, width) of the data.
            num_classes: Of the data.
            pretrained: Whether its weights are read; else they are random, and the head is
                for the data's classes.
            new_head: Whether its head is made anew, with random weights, for the data's classes.
            image_size: To resize images to, in the place of what its configuration says.
            drop_rate: Of dropout before the head.
            drop_path_rate: Of whole paths, while training.

        Raises:
            ModelError: timm is not installed, or the network does not fit the data.
        """
        timm = imported("timm", "timm:", "pip install timm")
        _, name = self.name.split(":", 1)
        if ":" in name or "/" in name:  # which timm takes for files and repositories of others
            raise ModelError(
                "after timm: stands the name of a network of timm; a repository is hub:OWNER/NAME."
            )
        channels, *_ = as_image_shape(input_shape)
        classes = {"num_classes": num_classes} if new_head or not pretrained else {}
        rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
        rates = {key: rate for key, rate in rates.items() if rate}  # not all networks take them
        network = timm.create_model(name, pretrained=pretrained, in_chans=channels, **classes, **rates)
        require_head(network.num_classes, num_classes)
        known = network.pretrained_cfg
        size = tuple(known["input_size"][-2:]) if "input_size" in known else None
        normalize = (known["mean"], known["std"]) if "mean" in known else None
        return self.prepared(Hosted(network, channels, size, normalize), input_shape, image_size)
