"""Task families small enough to run by the thousand, one per ability of the protocol."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quadratic:
    """Bring W and b to targets; a task is the pair of targets."""

    targets: jax.Array = dataclasses.field(default_factory=lambda: jnp.ones(()))

    def sample(self, key):
        return jax.random.normal(key, (4, 3))

    def init(self, key, task):
        return {"w": 0.1 * jax.random.normal(key, (4, 3)), "b": jnp.zeros(3)}, ()

    def loss(self, params, state, task, key):
        noise = 0.1 * jax.random.normal(key, (4, 3))
        return jnp.mean(jnp.square(params["w"] + params["b"] - self.targets * task - noise)), state

    def evaluate(self, params, state, task, key):
        return {"loss": self.loss(params, state, task, key)[0]}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fixed:
    """One quadratic problem without any randomness, badly scaled, so that the direction matters."""

    target: jax.Array = dataclasses.field(
        default_factory=lambda: jnp.array([[1.0, -2.0], [0.5, 1.5], [-1.0, 0.3]])
    )

    def sample(self, key):
        return jnp.zeros(())

    def init(self, key, task):
        return {"w": jnp.zeros((3, 2))}, ()

    def loss(self, params, state, task, key):
        scale = jnp.array([[1.0, 3.0], [0.3, 1.0], [2.0, 0.1]])
        return jnp.mean(scale * jnp.square(params["w"] - self.target)), state

    def evaluate(self, params, state, task, key):
        return {"loss": self.loss(params, state, task, key)[0]}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Regression behind a normalization whose running statistics are the model state.

    Training uses the statistics of the batch, evaluation the running ones.
    """

    decay: float = dataclasses.field(default=0.9, metadata={"static": True})

    def sample(self, key):
        return jax.random.normal(key, (4, 3))

    def init(self, key, task):
        params = {"w": 0.5 * jax.random.normal(key, (4, 3)), "scale": jnp.ones(3)}
        return params, {"mean": jnp.zeros(3), "variance": jnp.ones(3)}

    def loss(self, params, state, task, key):
        x, y = self.examples(task, key)
        h = x @ params["w"]
        now = {"mean": h.mean(0), "variance": h.var(0)}
        new = {name: self.decay * state[name] + (1 - self.decay) * now[name] for name in state}
        return self.error(params, now, h, y), new

    def evaluate(self, params, state, task, key):
        x, y = self.examples(task, key)
        return {"loss": self.error(params, state, x @ params["w"], y)}

    def examples(self, task, key):
        x = jax.random.normal(key, (64, 4))
        return 1.0 + x, x @ task

    def error(self, params, statistics, h, y):
        normalized = (h - statistics["mean"]) / jnp.sqrt(statistics["variance"] + 1e-3)
        return jnp.mean(jnp.square(params["scale"] * normalized - y))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bandit:
    """REINFORCE on-policy: actions are drawn from the policy that is trained.

    So batches depend on the parameters. A task is the expected reward of each of four actions in
    each of three contexts; the model state is the running mean of the reward, the baseline.
    """

    def sample(self, key):
        return jax.random.uniform(key, (3, 4))

    def init(self, key, task):
        return {"policy": jnp.zeros((3, 4))}, {"baseline": jnp.zeros(())}

    def loss(self, params, state, task, key):
        context_key, action_key = jax.random.split(key)
        contexts = jax.random.randint(context_key, (32,), 0, 3)
        logits = params["policy"][contexts]
        actions = jax.random.categorical(action_key, jax.lax.stop_gradient(logits))
        rewards = task[contexts, actions]
        log_probability = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[:, None], 1)[:, 0]
        loss = -jnp.mean((rewards - state["baseline"]) * log_probability)
        return loss, {"baseline": 0.9 * state["baseline"] + 0.1 * rewards.mean()}

    def evaluate(self, params, state, task, key):
        returns = jnp.mean(jnp.sum(jax.nn.softmax(params["policy"]) * task, 1))
        return {"loss": 1 - returns, "return": returns}
