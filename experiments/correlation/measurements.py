"""Measures what forms of dropout leave of a layer's values."""

import itertools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ..errors import InputError
from . import prediction
from .masks import FORMS, NEIGHBORS, draw
from .prediction import Maps

CORRELATIONS = np.linspace(0, 0.98, 15).round(2)


def place(config: ConfigDict, maps: Maps, seed: int) -> dict[str, Any]:
    """Measures correlation and shares in the maps of a place.

    Returns "correlation", that of adjacent values; "neighbors" by form of dropout, the share that
    the own channel gives back at config.rate; and "given back" by form and rate, the share that all
    channels give back.
    """
    prediction.check(maps)
    rng = np.random.default_rng(seed)
    moments = prediction.measure(maps, config.places, config.channels, rng)
    own = {channel: found.of_own_channel() for channel, found in moments.items()}

    def share(form: str, rate: float, of: dict[int, prediction.Moments]) -> float:
        layer = FORMS[form](rate, config.block_size)
        masks = draw(layer, seed, (config.masks, *maps.shape))
        if not prediction.dropped(of, masks).size:
            raise InputError(
                f"config.masks must be larger: none of {config.masks} masks of {form} drops a "
                f"value at a rate of {rate:g}"
            )
        return prediction.share(of, masks, config.dropped, rng)

    return {
        "correlation": prediction.adjacent_correlation(maps.others),
        "neighbors": {form: share(form, config.rate, own) for form in NEIGHBORS},
        "given back": {
            form: {f"{rate:g}": share(form, rate, moments) for rate in config.rates}
            for form in FORMS
        },
    }


def law(config: ConfigDict) -> dict[str, Any]:
    """Returns the share that neighbors give back in a field, by its correlation, for each form."""
    rng = np.random.default_rng(0)
    shape = (config.masks, *(4 * prediction.NEAR,) * 2, 1)
    shares = {}
    for form in NEIGHBORS:
        masks = draw(FORMS[form](config.rate, config.block_size), 0, shape)
        shares[form] = [
            prediction.share(prediction.law(correlation), masks, config.dropped, rng)
            for correlation in CORRELATIONS
        ]
    return {"correlation": CORRELATIONS.tolist(), **shares}


def picture(config: ConfigDict, maps: Maps) -> dict[str, Any]:
    """Returns a channel of a map, what masks leave visible of it, and what a predictor makes of it.

    Of the measured channels it is the one with the largest variance. Each mask drops its center.
    """
    rng = np.random.default_rng(0)
    moments = prediction.measure(maps, config.places, config.channels, rng)
    channel = max(moments, key=lambda channel: moments[channel].variance)
    values = maps.others[0] - maps.fitted.mean((0, 1, 2))
    center = (0, values.shape[0] // 2, values.shape[1] // 2, channel)
    shown: dict[str, Any] = {"map": values[..., channel].round(3).tolist()}
    for form, make in FORMS.items():
        layer = make(config.rate, config.block_size)
        drawn = (draw(layer, seed, (1, *maps.shape)) for seed in itertools.count())
        mask = next(masks[0] for masks in drawn if not masks[center])
        filled = prediction.fill(values, mask, channel, moments[channel])
        visible = mask[..., channel].astype(int)
        shown[form] = {"visible": visible.tolist(), "given back": filled.round(3).tolist()}
    return shown
