"""Pretrains the trunk as a classifier of single garments on photos."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import train
from ..images import sources
from ..task import Split
from .figures import Placement
from .models import Classifier
from .scenes import CLASSES, Wardrobe, standardized, wardrobes

SIDE, BATCH, LEARNING_RATE = 24, 64, 3e-3
SIZES = (8.0, 18.0)
"""The smallest and the largest garment, in pixels."""


@cache
def trunk(source: str, path: str, images: int, epochs: int, features: int) -> Any:
    """Returns the parameters of a pretrained trunk. All runs of a program share them."""
    wardrobe = wardrobes(sources.read(source, path))["train"]
    data, model = garments(wardrobe, images), Classifier(features, CLASSES)
    batch = min(BATCH, images)
    updates = epochs * train.steps_per_epoch(images, batch)
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, updates))
    state = train.first_state(model, data.inputs, optimizer, jax.random.key(0))
    loss = train.make_loss(model, optax.softmax_cross_entropy_with_integer_labels)
    steps = jax.jit(train.make_steps(train.make_step(loss, optimizer)))
    order = jax.jit(train.make_order(images, batch))
    for epoch in range(1, epochs + 1):
        indices, keys = jax.device_get(order(0, epoch))
        batches = jax.tree.map(lambda array, chosen=indices: array[chosen], data)
        state, _ = steps(state, jnp.float32(0), batches, keys)
    return jax.device_get(state.params["trunk"])


def garments(wardrobe: Wardrobe, number: int) -> Split:
    """Draws garments of all classes in turn, each on a part of a photo."""
    rng, pixels = np.random.default_rng(0), []
    for index in range(number):
        scene = wardrobe.background(rng, SIDE, SIDE)
        center = rng.uniform(SIDE / 3, 2 * SIDE / 3, 2)
        angle, mirrored = rng.uniform(-0.5, 0.5), bool(rng.integers(2))
        place = Placement(center, rng.uniform(*SIZES), angle, mirrored)
        wardrobe.paste(rng, scene, place, (index % CLASSES,))
        pixels.append(standardized(scene))
    labels = np.arange(number, dtype=np.int32) % CLASSES
    return Split((np.stack(pixels),), labels, np.ones(number, bool))
