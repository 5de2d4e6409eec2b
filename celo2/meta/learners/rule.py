"""The learner of Celo2: the rule on matrices, Adam on vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from celo2 import rule
from celo2.jax.newton_schulz import orthogonalize
from celo2.jax.routing import rules
from celo2.jax.transform import default_axes
from celo2.meta.adam import ADAMS, Adam
from celo2.meta.learners.base import Run
from celo2.parameters.routing import ADAMW
from celo2.parameters.views import MatrixView, matrix_views
from celo2.rule.spec import Spec
from celo2.tasks.base import Params


@dataclasses.dataclass(frozen=True)
class Rule:
    """Celo2's rule, its updates before the learning rate."""

    spec: Spec
    adamw_lr_multiplier: float
    """Learning rate of Adam over that of the rule."""
    adam: Adam

    def init(self, params: Params) -> dict[str, Any]:
        """Initialize the statistics of each parameter: `Accumulators`, or Adam's state."""
        routes = rules(params, self.spec.everywhere)
        statistics: dict[str, Any] = {}
        for name, p in params.items():
            if routes[name] == ADAMW:
                # 8 bytes per element; under the rule it is 16, three momenta and V.
                statistics[name] = ADAMS[self.adam].init(p)
            else:
                part = _view(p)
                statistics[name] = rule.init(jnp, self.spec, part.view(jnp, p), part.is_vector)
        return statistics

    def update(
        self, theta: rule.Weights, params: Params, statistics: Any, grads: Params, run: Run
    ) -> tuple[Params, dict[str, Any]]:
        """Return the updates of all parameters and their new statistics; `run` is not read."""
        del run
        updates, new = {}, {}
        for name, p in params.items():
            old = statistics[name]
            if not isinstance(old, rule.Accumulators):
                update, new[name] = ADAMS[self.adam].update(grads[name], old)
                updates[name] = self.adamw_lr_multiplier * update
            else:
                part = _view(p)
                is_orthogonal = self.spec.newton_schulz and not part.is_vector
                newton_schulz = orthogonalize if is_orthogonal else None
                # Under jit the views are fused with what reads them; no transposed copy is stored.
                g, w = part.view(jnp, grads[name]), part.view(jnp, p)
                update, new[name] = rule.update(jnp, self.spec, theta, old, g, w, newton_schulz)
                updates[name] = part.inverse(jnp, update)
        return updates, new

    def mask_frozen(self, gradient: rule.Weights) -> rule.Weights:
        """Return the gradient: all of theta is learned."""
        return gradient

    def distance_to_muon(
        self, params: Params, updates: Params, statistics: Any, grads: Params
    ) -> jax.Array:
        """Return 1 - cosine between the updates and Muon's (Nesterov), mean over the matrices.

        Muon's momentum is that of the first decay.
        """
        spec, distances = self.spec, []
        for name, p in params.items():
            part, new = _view(p), statistics[name]
            if not isinstance(new, rule.Accumulators) or part.is_vector:
                continue
            (m, *_), (decay, *_) = new.averages, spec.momentum_decays
            nesterov = decay * m + (1 - decay) * part.view(jnp, grads[name])
            # Stop the gradient through the expert, or theta could lower the distance by changing
            # it.
            expert = jax.lax.stop_gradient(orthogonalize(jnp, spec, nesterov))
            u = part.view(jnp, updates[name])
            lengths = []
            for x in (u, expert):
                lengths.append(jnp.sqrt(jnp.sum(x * x, (-2, -1)) + spec.normalize_epsilon))
            cosine = jnp.sum(u * expert, (-2, -1)) / (lengths[0] * lengths[1])
            distances.append(1 - jnp.mean(cosine))
        return jnp.mean(jnp.stack(distances)) if distances else jnp.zeros(())


def _view(p: jax.Array) -> MatrixView:
    """Return how the rule reads a parameter: as it does for users."""
    (part,) = matrix_views(p.shape, default_axes(p.shape))
    return part
