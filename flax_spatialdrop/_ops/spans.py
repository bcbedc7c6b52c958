"""Masks of spans, and SpecAugment, which hides spans of time and of frequency."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from .._apply import Recipe, Select, by_mask, drop
from .._checks import (
    check_array,
    check_count,
    check_input,
    check_key,
    check_mask,
    check_scalar,
    check_whole,
    is_sequence,
    is_static,
    is_whole,
    shown,
    unboxed,
)
from .._noise_shape import check_size
from .._random.sharding import sharding_of_batch, sharding_of_part
from .._random.spans import as_int32, sample_spans
from .._typing import Array, Key, Rate, Shape
from .fill import Fill, resolve_fill


def span_mask(
    key: Key,
    lengths: int | Array,
    max_length: int,
    *,
    num: int,
    max_width: int | Array,
    max_ratio: Rate = 1.0,
    min_width: int | Array = 0,
) -> jax.Array:
    """Draws a mask that drops spans of each sequence, all of them before its end.

        m[b, t] = False if start[b, i] <= t < start[b, i] + width[b, i] for one of num spans i

        w[b] = min(max_width, floor(max_ratio * lengths[b]))
        width[b, i] ~ Uniform{min(min_width, w[b]), ..., w[b]}
        start[b, i] ~ Uniform{0, ..., lengths[b] - width[b, i]}

    The spans of a sample are independent, so they may overlap. One span drops w / (2 * length) of
    a sequence in expectation, or (min_width + w) / (2 * length) with min_width. `num` spans drop at
    most 1 - (1 - that)^num: usually less, since they overlap more often in the middle.

    The draws are `width = jax.random.randint(width_key, [*batch, num], ..., dtype="int32")` and the
    same for start, where `width_key, start_key = jax.random.split(key)`.

    Args:
      key: a JAX PRNG key, which the call consumes. It may be None if num, max_width or max_ratio is
        the number 0.
      lengths: the lengths of the sequences, integers [*batch], traced or not; an int for a single
        sequence. Values of arrays are clipped to 0, ..., max_length.
      max_length: the length of the mask, which is that of the padded sequences.
      num: the number of spans of each sequence, known when tracing.
      max_width: the largest width of a span, an integer or an integer scalar array.
      max_ratio: the largest part of its own sequence that a span may cover, in [0, 1]: a number or
        a scalar array.
      min_width: the smallest width of a span, of the same kind as max_width. If both are equal, all
        spans have this width, unless max_ratio or a short sequence makes them shorter.

    Returns:
      bool [*batch, max_length], True where a value is kept. Padding, which is beyond the length of
      a sequence, is True.

    Raises:
      ValueError: if a number is negative, max_ratio is above 1, an int for lengths is above
        max_length, or the key is missing.
      TypeError: if an argument has the wrong type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import span_mask
      >>> lengths = jnp.array([9, 5])  # the second sequence has 4 steps of padding
      >>> span_mask(jax.random.key(1), lengths, 9, num=1, max_width=4).astype(int)
      Array([[1, 1, 1, 1, 0, 0, 1, 1, 1],
             [1, 0, 1, 1, 1, 1, 1, 1, 1]], dtype=int32)

    Reference: Park et al., SpecAugment: A Simple Data Augmentation Method for Automatic Speech
    Recognition, 2019, https://arxiv.org/abs/1904.08779
    """
    max_length = check_size(max_length, "max_length")
    spans = _Spans(
        check_whole(num, "num", least=0),
        check_count(min_width, "min_width"),
        check_count(max_width, "max_width"),
        check_scalar(max_ratio, "max_ratio"),
    )
    return _mask(key, check_lengths(lengths, max_length), max_length, spans)


class _Spans(NamedTuple):
    """The number and the widths of spans, checked."""

    num: int
    min_width: int | Array
    max_width: int | Array
    max_ratio: Rate

    @property
    def are_empty(self) -> bool:
        """Whether nothing is dropped, so that no key is needed."""
        has_no_width = isinstance(self.max_width, int) and self.max_width == 0
        return self.num == 0 or has_no_width or is_static(self.max_ratio, 0.0)


def _mask(key: Key, lengths: jax.Array, max_length: int, spans: _Spans) -> jax.Array:
    if spans.are_empty:
        return jnp.ones((*lengths.shape, max_length), bool)
    return sample_spans(key, lengths, max_length, *spans)


def check_lengths(lengths: Any, most: int, x: Array | None = None) -> jax.Array:
    """Returns lengths as int32, clipped to 0, ..., `most`.

    If x, [*batch, length, features], is given, they must be [*batch], and get its sharding.
    """
    lengths = unboxed(lengths)
    if is_whole(lengths):
        if not 0 <= lengths <= most:
            limit = f"max_length={most}" if x is None else f"{most}, the length of x"
            raise ValueError(f"lengths must be from 0 to {limit}: got {shown(lengths)}")
        lengths = np.full((), lengths, np.int32)
    checked = check_array(lengths, "lengths")
    if not jnp.issubdtype(checked.dtype, jnp.integer):
        raise TypeError(f"lengths must have an integer dtype: got dtype {checked.dtype}")
    if x is not None and checked.shape != x.shape[:-2]:
        raise ValueError(
            f"lengths must have the shape {x.shape[:-2]}, that of x without its last two axes: "
            f"got lengths.shape={checked.shape}"
        )
    clean = jnp.minimum(as_int32(checked), most)
    sharding = None if x is None else sharding_of_batch(x, 2)
    return clean if sharding is None else jax.sharding.reshard(clean, sharding)


def spec_augment(
    key: Key,
    x: Array,
    *,
    lengths: int | Array | None = None,
    num_time_masks: int = 2,
    max_time_width: int | Array = 100,
    max_time_ratio: Rate = 1.0,
    num_freq_masks: int = 2,
    max_freq_width: int | Array = 27,
    fill: Fill = 0.0,
) -> jax.Array:
    """Hides spans of time and spans of frequency of each spectrogram.

        y[b, t, f] = x[b, t, f] if (m[b, t] and n[b, f]) or t >= lengths[b] else fill

        time_key, freq_key = jax.random.split(key)
        m = span_mask(time_key, lengths, T, num=num_time_masks, max_width=max_time_width,
                      max_ratio=max_time_ratio)
        n = span_mask(freq_key, full([B], F), F, num=num_freq_masks, max_width=max_freq_width)

    The defaults are the policy LD of the paper, for LibriSpeech, without its time warping. Kept
    values are not scaled, and padding stays as it is. No span of time reaches into the padding. The
    backward pass keeps only the two masks (and the lengths).

    Args:
      key: as in `span_mask`. It may be None if nothing is hidden.
      x: [*batch, time, frequency], floating or complex: a spectrogram, or any other sequence.
      lengths: the number of frames of each sample, as in `span_mask`. None says that no sample is
        padded.
      num_time_masks: the number of spans of time of each sample.
      max_time_width: the largest number of frames of a span of time; may be traced.
      max_time_ratio: the largest part of a sample's frames that one span of time may cover; may be
        traced.
      num_freq_masks: the number of spans of frequency of each sample.
      max_freq_width: the largest number of frequencies of a span of frequency; may be traced.
      fill: the hidden values: a number; a vector [frequency], such as a learned one, which has a
        gradient; or "mean", the mean of all values of the sample that are neither hidden nor
        padding (0 if there are none).

    Returns:
      An array with the shape, dtype and sharding of x; x itself if nothing is hidden.

    Raises:
      ValueError: if x has fewer than two axes, lengths or fill does not fit x, or a number is out
        of range as in `span_mask`.
      TypeError: if x has an integer or bool dtype, or an argument has the wrong type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import spec_augment
      >>> x, options = jnp.ones((1, 4, 8)), {"num_time_masks": 1, "num_freq_masks": 1}
      >>> y = spec_augment(jax.random.key(8), x, max_time_width=2, max_freq_width=3, **options)
      >>> y[0]  # [time, frequency]
      Array([[1., 1., 1., 1., 0., 1., 1., 1.],
             [0., 0., 0., 0., 0., 0., 0., 0.],
             [1., 1., 1., 1., 0., 1., 1., 1.],
             [1., 1., 1., 1., 0., 1., 1., 1.]], dtype=float32)

    Reference: Park et al., SpecAugment: A Simple Data Augmentation Method for Automatic Speech
    Recognition, 2019, https://arxiv.org/abs/1904.08779; Baevski et al., wav2vec 2.0: A Framework
    for Self-Supervised Learning of Speech Representations, 2020, https://arxiv.org/abs/2006.11477
    (which learns the fill)
    """
    recipe = spec_recipe(
        x,
        lengths,
        num_time_masks,
        max_time_width,
        max_time_ratio,
        num_freq_masks,
        max_freq_width,
        fill,
    )
    return drop(key, x, None, recipe)


class SpecMasks(NamedTuple):
    """The masks of time, [*batch, time, 1], and of frequency, [*batch, 1, frequency]."""

    time: Array
    freq: Array


def spec_recipe(
    x: Array,
    lengths: int | Array | None,
    num_time_masks: int,
    max_time_width: int | Array,
    max_time_ratio: Rate,
    num_freq_masks: int,
    max_freq_width: int | Array,
    fill: Fill,
) -> Recipe:
    """Returns the recipe of SpecAugment for x, which is checked here. Its mask is a `SpecMasks`.

    It has no rate. For a rate of None, the recipe uses 1, or 0 if nothing is hidden.
    """
    x = check_input(x, rule="a floating or complex dtype")
    if len(x.shape) < 2:
        raise ValueError(f"x must be [*batch, time, frequency]: got x.shape={x.shape}")
    axis = len(x.shape) - 2
    time = _Spans(
        check_whole(num_time_masks, "num_time_masks", least=0),
        0,
        check_count(max_time_width, "max_time_width"),
        check_scalar(max_time_ratio, "max_time_ratio"),
    )
    freq = _Spans(
        check_whole(num_freq_masks, "num_freq_masks", least=0),
        0,
        check_count(max_freq_width, "max_freq_width"),
        1.0,
    )
    known = None if lengths is None else check_lengths(lengths, x.shape[axis], x)
    select, constants = resolve_fill(
        fill, x.dtype, x.shape, axis + 1, (axis, axis + 1), ("frequency", "frequencies")
    )
    draws = not (time.are_empty and freq.are_empty)
    return Recipe(
        x.shape,
        sample=partial(_sample, x, known, time, freq),
        apply=partial(_apply, _Augmented(select), known, constants),
        apply_key=None,
        check_rate=lambda rate: float(draws) if rate is None else rate,
        check_mask=_check_masks,
        is_bernoulli=False,
        draws_at_1=True,
    )


def _sample(
    x: Array,
    lengths: jax.Array | None,
    time: _Spans,
    freq: _Spans,
    key: Key,
    rate: Rate,
    noise_shape: Shape,
    _: NamedSharding | None,
) -> SpecMasks:
    *batch, num_frames, num_freqs = noise_shape
    zeros = jnp.zeros(batch, np.int32, out_sharding=sharding_of_batch(x, 2))
    lengths = zeros + num_frames if lengths is None else lengths
    if is_static(rate, 0.0):
        keys, time, freq = [None, None], time._replace(num=0), freq._replace(num=0)
    else:
        keys = [*jax.random.split(check_key(key))]
    of_time = _mask(keys[0], lengths, num_frames, time)[..., None]
    of_freq = _mask(keys[1], zeros + num_freqs, num_freqs, freq)[..., None, :]
    return SpecMasks(_placed(of_time, x), _placed(of_freq, x))


def _placed(mask: jax.Array, x: Array) -> jax.Array:
    """Gives a mask the explicit sharding of x, along the axes that they share."""
    sharding = sharding_of_part(x, mask.shape)
    return mask if sharding is None else jax.sharding.reshard(mask, sharding)


def _apply(
    select: Select, lengths: jax.Array | None, fill: Any, x: Array, masks: SpecMasks, _: Rate
) -> jax.Array:
    return by_mask(select, (masks, lengths), x, *fill)


@dataclasses.dataclass(frozen=True)
class _Augmented:
    """Replaces the hidden values by `select`, and leaves padding as it is."""

    select: Select

    def __call__(
        self, given: tuple[SpecMasks, jax.Array | None], x: jax.Array, *fill: jax.Array
    ) -> jax.Array:
        masks, lengths = given
        mask = masks.time & masks.freq
        if lengths is None:
            return self.select(mask, x, *fill)
        frames = jax.lax.broadcasted_iota(np.int32, masks.time.shape, x.ndim - 2)
        is_inside = frames < lengths[..., None, None]
        return jnp.where(is_inside, self.select(mask & is_inside, x, *fill), x)


def _check_masks(masks: Any, _: Shape, shape: Shape) -> SpecMasks:
    """Returns masks given by the user for x of `shape`."""
    *batch, num_frames, num_freqs = shape
    fitting = (*batch, num_frames, 1), (*batch, 1, num_freqs)
    if not is_sequence(masks) or len(masks) != 2:
        raise TypeError(
            "mask must be a pair, the mask of time and the mask of frequency, as sample_mask "
            f"returns them: got {shown(masks)}"
        )
    time, freq = (check_mask(mask, f"mask[{i}]") for i, mask in enumerate(masks))
    if (time.shape, freq.shape) != fitting:
        raise ValueError(
            f"mask must be a pair of the shapes {fitting[0]} and {fitting[1]}, for time and "
            f"frequency: got {time.shape} and {freq.shape} for x.shape={shape}"
        )
    return SpecMasks(time, freq)
