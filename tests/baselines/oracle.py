"""Celo, Celo-Adam and VeLO in their naive form, written from their papers and nothing of `celo2`.

NumPy, float64, one tensor after the other, thirty channels, channels last. `theta` is a mapping of
the names in the authors' checkpoints to arrays.
"""

import numpy as np

DECAYS = np.array([0.9, 0.99, 0.999])


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _rho(x):
    return 1 / np.sqrt(np.maximum(x, 1e-9))


class _LossBuffer:
    """The nine loss features; ten moving averages of the loss over 10 to `num_steps` steps."""

    def __init__(self, num_steps):
        self.decay = np.exp(-1 / np.logspace(1, np.log10(num_steps), 10))
        self.mean = np.zeros(10)
        self.lowest = np.full(10, 999999999999.0)
        self.n = 0

    def features(self, loss):
        if self.n > 0:
            typical = np.max(self.mean / (1 - self.decay ** (self.n + 1)))
            loss = min(2 * abs(typical), loss)
        self.mean = self.decay * self.mean + (1 - self.decay) * loss
        corrected = self.mean / (1 - self.decay ** (self.n + 1))
        self.lowest = np.minimum(self.lowest, corrected)
        self.n += 1
        if self.n <= 2:
            return np.zeros(9)
        corrected = self.mean / (1 - self.decay**self.n)
        above = np.maximum(1e-8, corrected[1:] - self.lowest[:-1])
        return np.clip((corrected[:-1] - self.lowest[:-1]) / above - 1, -1, 1)


def _time_features(t, num_steps):
    return np.tanh(10 * (t / num_steps - np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])))


class _Tensor:
    """Accumulators and the thirty channels of one tensor."""

    def __init__(self, shape):
        self.shape = shape = shape or (1,)
        self.m = np.zeros((*shape, 3))
        self.v = np.zeros(shape)
        self.r = self.c = 0.0
        if len(shape) > 1:
            order = sorted(range(len(shape)), key=lambda axis: shape[axis])
            self.d0, self.d1 = order[-1], order[-2]

    def accumulate(self, g):
        g = g.reshape(self.shape)
        self.m = DECAYS * self.m + (1 - DECAYS) * g[..., None]
        self.v = 0.999 * self.v + 0.001 * g**2
        q = (g**2 + 1e-30)[..., None]
        if g.ndim == 1:
            q0 = q1 = q
        else:
            q0, q1 = q.mean(self.d0, keepdims=True), q.mean(self.d1, keepdims=True)
        self.r = DECAYS * self.r + (1 - DECAYS) * q0
        self.c = DECAYS * self.c + (1 - DECAYS) * q1

    def channels(self, g, w):
        """Fourteen arrays (*shape, k)."""
        g, w, v = (
            g.reshape(self.shape)[..., None],
            w.reshape(self.shape)[..., None],
            self.v[..., None],
        )
        s = 1 / np.sqrt(v + 1e-6)
        if g.ndim == 2:
            by_g, by_m = g * _rho(self.r + 1e-9), self.m / np.sqrt(self.r)
        else:
            f = _rho(self.r / (self.r.mean(self.d1, keepdims=True) + 1e-9)) * _rho(self.c)
            by_g, by_m = g * f, self.m * f
        root_r, root_c = 1 / np.sqrt(self.r + 1e-8), 1 / np.sqrt(self.c + 1e-8)
        table = [
            g,
            np.clip(g, -0.1, 0.1),
            w,
            self.m,
            v,
            self.m * s,
            s,
            by_g,
            g * s,
            self.r,
            self.c,
            root_r,
            root_c,
            by_m,
        ]
        return [np.broadcast_to(x, (*self.shape, x.shape[-1])) for x in table]

    def proposal(self, mlp, g, w):
        """0.001 p exp(0.001 E) D."""
        axes = tuple(range(len(self.shape)))
        table = [x / np.sqrt(1e-5 + np.mean(x**2, axis=axes)) for x in self.channels(g, w)]
        h = mlp["b0"] + sum(x @ mlp[f"w0__{i}"] for i, x in enumerate(table))
        h = np.maximum(np.maximum(h, 0) @ mlp["w1"] + mlp["b1"], 0)
        out = h @ mlp["w2"] + mlp["b2"]
        size = np.sqrt(np.mean(w**2) + 1e-9)
        return (0.001 * size * np.exp(0.001 * out[..., 1]) * out[..., 0]).reshape(g.shape)


class _Lstm:
    """The recurrent network over rows x (n, features), its state, and its step size."""

    def __init__(self, theta, rows):
        self.theta = theta
        self.hidden = np.repeat(theta["lstm_init_state/hidden"], rows, axis=0)
        self.cell = np.repeat(theta["lstm_init_state/cell"], rows, axis=0)

    def dense(self, name, x):
        return x @ self.theta[f"rnn_params/{name}/w"] + self.theta[f"rnn_params/{name}/b"]

    def step(self, x):
        u = self.dense("linear_2", x) + np.maximum(self.dense("linear_1", x), 0).max(axis=0)
        z = self.dense("rnn/linear", np.concatenate([u, self.hidden], axis=1))
        i, g, f, o = np.split(z, 4, axis=1)
        self.cell = _sigmoid(f + 1) * self.cell + _sigmoid(i) * np.tanh(g)
        self.hidden = _sigmoid(o) * np.tanh(self.cell)
        return self.dense("step_size", self.hidden)[:, 0]


class _Oracle:
    def __init__(self, theta, params, num_steps):
        self.theta = {name: np.asarray(array, np.float64) for name, array in theta.items()}
        prefix = "ff_mod_stack/~/"
        self.bank = {
            name.removeprefix(prefix): array
            for name, array in self.theta.items()
            if name.startswith(prefix)
        }
        self.tensors = {name: _Tensor(w.shape) for name, w in params.items()}
        self.buffer = _LossBuffer(num_steps)
        self.num_steps, self.t = num_steps, 0
        self.record = {}

    def global_features(self, loss):
        return np.concatenate([_time_features(self.t, self.num_steps), self.buffer.features(loss)])


class CeloOracle(_Oracle):
    """Celo; `phase` 1 is the MLP alone, `adam` is Celo-Adam."""

    def __init__(self, theta, params, num_steps, phase=2, adam=False):
        super().__init__(theta, params, num_steps)
        self.phase, self.adam = phase, adam
        self.lstm = _Lstm(self.theta, 1)

    def step(self, grads, params, loss):
        x = self.global_features(loss)
        lr = 0.1 * np.exp(self.lstm.step(x[None])[0])
        self.record = {"lstm_input": x, "lr": lr}
        self.t += 1
        return {
            name: (lr if self.phase == 2 else 1) * self.direction(name, g, params[name])
            for name, g in grads.items()
        }

    def direction(self, name, g, w):
        g, tensor = np.clip(g, -1000, 1000), self.tensors[name]
        tensor.accumulate(g)
        if not self.adam:
            return tensor.proposal({key: array[0] for key, array in self.bank.items()}, g, w)
        m, v = tensor.m[..., 0] / (1 - 0.9**self.t), tensor.v / (1 - 0.999**self.t)
        return (0.001 * m / (1e-8 + np.sqrt(v + 1e-10))).reshape(g.shape)


class VeloOracle(_Oracle):
    """VeLO: one LSTM row per tensor, whose output mixes the bank of MLPs."""

    def __init__(self, theta, params, num_steps):
        super().__init__(theta, params, num_steps)
        self.lstm = _Lstm(self.theta, len(params))

    def step(self, grads, params, loss):
        shared = self.global_features(loss)
        x = np.array(
            [np.concatenate([shared, self.statistics(name, w)]) for name, w in params.items()]
        )
        lr = self.lstm.step(x)
        control = self.lstm.dense("rnn_to_controls", self.lstm.hidden)
        self.t += 1
        updates = {}
        for i, (name, w) in enumerate(params.items()):
            g = np.clip(grads[name], -1000, 1000)
            self.tensors[name].accumulate(g)
            mlp = {
                key: 100 * np.tensordot(control[i], array, 1) / len(array)
                for key, array in self.bank.items()
            }
            updates[name] = lr[i] * self.tensors[name].proposal(mlp, g, w)
        self.record = {
            "lstm_input": dict(zip(params, x, strict=True)),
            "lr": dict(zip(params, lr, strict=True)),
            "control": dict(zip(params, control, strict=True)),
        }
        return updates

    def statistics(self, name, w):
        """Twelve numbers: mean of V, rank, variances; from the accumulators before this step."""

        def log(y):
            return 0.5 * np.clip(np.log(1e-8 + np.abs(10 * y)), -5, 5)

        m, v = self.tensors[name].m, self.tensors[name].v
        q = 1 / np.sqrt(max(1e-9, np.mean(w**2)))
        axes = tuple(range(v.ndim))
        mean = np.mean(q * m, axis=axes)
        rank = np.zeros(5)
        longer = sum(length > 1 for length in w.shape)
        if longer < 5:
            rank[longer] = 1
        variance_m = np.mean((q * m - mean) ** 2, axis=axes)
        variance_v = np.mean((q * v[..., None] - mean) ** 2, axis=axes)
        return np.concatenate([[log(np.mean(q * v))], rank, log(variance_m), log(variance_v)])
