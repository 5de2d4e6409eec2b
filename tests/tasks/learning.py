"""Train a family for a few steps of AdamW: what the tests of all families share."""

import jax
import optax


def adamw(family, steps, learning_rate=1e-2):
    """Metrics on held-out data before and after, as numbers; all randomness is from seed 0."""
    task_key, params_key, batch_key = jax.random.split(jax.random.key(0), 3)
    task, first = _start(family, task_key, params_key)
    last = _train(family, task, first, jax.random.split(batch_key, steps), learning_rate)
    return _metrics(family, task, first), _metrics(family, task, last)


@jax.jit
def _start(family, task_key, params_key):
    task = family.sample(task_key)
    return task, family.init(params_key, task)


@jax.jit
def _train(family, task, first, keys, learning_rate):
    transform = optax.adamw(learning_rate)

    def step(carry, key):
        params, model_state, state = carry
        (_, model_state), grads = jax.value_and_grad(family.loss, has_aux=True)(
            params, model_state, task, key
        )
        updates, state = transform.update(grads, state, params)
        return (optax.apply_updates(params, updates), model_state, state), None

    last, _ = jax.lax.scan(step, (*first, transform.init(first[0])), keys)
    return last[:2]


def _metrics(family, task, network):
    drawn = _evaluate(family, task, network, jax.random.split(jax.random.key(1), 4))
    return {name: float(x.mean()) for name, x in drawn.items()}


@jax.jit
def _evaluate(family, task, network, keys):
    return jax.lax.map(lambda key: family.evaluate(*network, task, key), keys)
