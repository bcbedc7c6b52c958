"""A pre-activation residual network with a regularizer inside of its blocks."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flax_spatialdrop import linen

from ..convolution import convolve

Layer = Callable[..., nn.Module]
"""Makes a regularizer from a rate."""


class Form(NamedTuple):
    """Where a network is regularized.

    Attributes:
      before, after: the layer before or after the second norm of every block.
      path: the mode of drop path, which reaches the rate in the last block.
      image: the layer on the images.
    """

    before: Layer | None = None
    after: Layer | None = None
    path: Any = None
    image: Layer | None = None


FORMS = {
    "none": Form(),
    "Dropout": Form(after=linen.Dropout),
    "Dropout before norm": Form(before=linen.Dropout),
    "SpatialDropout2D": Form(after=linen.SpatialDropout2D),
    "SpatialDropout2D before norm": Form(before=linen.SpatialDropout2D),
    "DropBlock": Form(after=linen.DropBlock),
    "DropBlock growing": Form(after=linen.DropBlock),
    "DropPath row": Form(path="row"),
    "DropPath batch": Form(path="batch"),
    "DropPath subset": Form(path="subset"),
    "cutout": Form(image=linen.Cutout),
}
NORMS = ("batch", "group")
GROUPS = 8
"""Of channels, for group norm."""


def conv(width: int, dtype: DTypeLike, size: int = 3, stride: int = 1) -> nn.Conv:
    """Returns a convolution by squares, without a bias."""
    return nn.Conv(
        *(width, (size, size), stride),
        use_bias=False,
        dtype=dtype,
        conv_general_dilated=convolve,
    )


class Branch(nn.Module):
    """Norm -> ReLU -> convolution, twice, with a regularizer before or after the second norm.

    Attributes:
      norm: makes a norm.
      before, after: make the regularizer, or are None.
      dtype: the type to compute in.
    """

    norm: Callable[[], nn.Module]
    before: Callable[[], nn.Module] | None
    after: Callable[[], nn.Module] | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, row, column, channel] to the same shape."""
        width = x.shape[-1]
        x = conv(width, self.dtype)(nn.relu(self.norm()(x)))
        if self.before:
            x = self.before()(x)
        x = nn.relu(self.norm()(x))
        if self.after:
            x = self.after()(x)
        return conv(width, self.dtype)(x)


class ResNet(nn.Module):
    """A pre-activation residual network (He et al., 2016) for small images.

    Each stage begins with a convolution. It halves height and width, except in the first stage.

    Attributes:
      classes: the number of classes.
      widths: the channels of every stage.
      blocks: the residual blocks of a stage.
      patch: the stride of the first convolution, in rows and columns of the image.
      norm: "batch" or "group".
      form: where the network is regularized. Cutout hides squares of half the size of an image.
      block_size: of DropBlock, in positions.
      subset_rate: the rate of drop path with mode "subset", where it is part of the program.
      dtype: the type to compute in. Parameters and scores are float32.
    """

    classes: int
    widths: tuple[int, ...]
    blocks: int
    patch: int
    norm: str = "batch"
    form: Form = Form()
    block_size: int = 3
    subset_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, rate: Any, *, deterministic: bool) -> jax.Array:
        """Maps images [batch, row, column, channel] to scores [batch, classes]."""
        norm = self._norm(deterministic)

        sizes = {linen.DropBlock: self.block_size, linen.Cutout: images.shape[1] // 2}

        def made(layer: Any) -> Callable[[], nn.Module] | None:
            size = {"block_size": sizes[layer]} if layer in sizes else {}
            return layer and partial(layer, rate, deterministic=deterministic, **size)

        x = images
        if image := made(self.form.image):
            x = image()(x)
        path_rate = {None: 0.0, "subset": self.subset_rate}.get(self.form.path, rate)
        last = len(self.widths) * self.blocks
        for stage, width in enumerate(self.widths):
            size, stride = (3, 2) if stage else (max(3, self.patch), self.patch)
            x = conv(width, self.dtype, size, stride)(x)
            for block in range(1, self.blocks + 1):
                before, after = made(self.form.before), made(self.form.after)
                name = f"stage{stage + 1}_branch{block}"
                branch = Branch(norm, before, after, self.dtype, name=name)
                share = (stage * self.blocks + block) / last
                path = linen.ResidualDropPath(
                    branch,
                    share * path_rate,
                    mode=self.form.path or "row",
                    name=f"stage{stage + 1}_block{block}",
                )
                x = path(x, deterministic=deterministic)
        x = nn.relu(norm()(x)).mean((1, 2))
        return nn.Dense(self.classes, dtype=self.dtype)(x).astype(jnp.float32)

    def _norm(self, deterministic: bool) -> Callable[[], nn.Module]:
        if self.norm == "group":
            return partial(nn.GroupNorm, num_groups=GROUPS, dtype=self.dtype)
        return partial(
            nn.BatchNorm, use_running_average=deterministic, momentum=0.9, dtype=self.dtype
        )
