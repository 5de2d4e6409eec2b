"""A coordinate network: a photograph as a function from positions to colors (SIREN)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from celo2.tasks.base import Metrics, ModelState, Params, Supervised
from celo2.tasks.layers import linear
from celo2.tasks.tables import Rows, Table, rows

SIZE = 96, 144
"""Height and width of the photograph."""
FREQUENCY = 30.0
"""Factor of the argument of every sine (Sitzmann et al. 2020)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Siren(Supervised):
    """Sine layers with the published initialization; mean squared error, and PSNR in dB beside it.

    Rows of the data are positions in [-1, 1] and the colors there, in [-1, 1].
    """

    width: int = dataclasses.field(default=128, metadata={"static": True})
    depth: int = dataclasses.field(default=4, metadata={"static": True})
    """Sine layers."""

    def init_params(self, key: jax.Array) -> Params:
        inputs, outputs = self.data.train.features.shape[-1], self.data.train.target.shape[-1]
        names = [f"layers.{i}" for i in range(self.depth)] + ["head"]
        widths = [inputs, *[self.width] * self.depth, outputs]
        params = {}
        for i, (name, layer_key) in enumerate(
            zip(names, jax.random.split(key, len(names)), strict=True)
        ):
            fan_in = widths[i]
            bound = 1 / fan_in if i == 0 else (6 / fan_in) ** 0.5 / FREQUENCY
            shape = fan_in, widths[i + 1]
            params[f"{name}.w"] = jax.random.uniform(layer_key, shape, minval=-bound, maxval=bound)
            params[f"{name}.b"] = jnp.zeros(shape[1])
        return params

    def batch_loss(self, params: Params, batch: Rows) -> jax.Array:
        h = batch.features
        for i in range(self.depth):
            h = jnp.sin(FREQUENCY * linear(params, f"layers.{i}", h))
        return jnp.square(linear(params, "head", h) - batch.target).mean()

    def evaluate(
        self, params: Params, state: ModelState, task: jax.Array, key: jax.Array
    ) -> Metrics:
        loss = self.batch_loss(params, self.data.held_out_batch(key, task))
        return {"loss": loss, "psnr": 10 * jnp.log10(4 / loss)}


def photograph(batch_size: int) -> Table:
    """Make the data of scikit-learn's photo of a flower at 96x144 pixels; an eighth is held out."""
    from skimage.transform import resize
    from sklearn.datasets import load_sample_image

    image = np.asarray(resize(load_sample_image("flower.jpg"), SIZE, anti_aliasing=True))
    axes = [np.linspace(-1, 1, length) for length in SIZE]
    positions = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    colors = 2 * image.reshape(-1, 3) - 1
    order = np.random.default_rng(0).permutation(len(positions))
    held_out, train = np.split(order, [len(order) // 8])
    return Table(
        rows(positions[train], colors[train]),
        rows(positions[held_out], colors[held_out]),
        batch_size,
    )
