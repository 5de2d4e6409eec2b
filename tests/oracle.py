"""The rule in its naive form, written from the paper's tables and nothing of `celo2`.

It works in float64 on thirty channels, channels last. It reads a matrix as (in, out), chooses d0
and d1 and transposes as the authors' implementation does, and keeps everything at full size.
"""

import numpy as np

DECAYS = (0.9, 0.99, 0.999)


def _rho(x):
    return 1 / np.sqrt(np.maximum(x, 1e-9))


class MatrixOracle:
    """One matrix (in, out), vector or scalar, under one theta in the authors' nineteen arrays."""

    def __init__(self, theta, shape, orthogonalize):
        self.theta = {key: np.asarray(value, np.float64) for key, value in theta.items()}
        self.orthogonalize = orthogonalize
        shape = shape or (1,)
        self.vector = len(shape) == 1
        self.m = np.zeros((*shape, 3))
        self.v = np.zeros(shape)
        if self.vector:
            self.d = np.zeros((*shape, 3))
        else:
            rows, columns = shape
            self.d0 = 0 if rows > columns else 1  # the longer axis; on a tie the last
            self.r = np.zeros((shape[1 - self.d0], 3))
            self.c = np.zeros((shape[self.d0], 3))

    def _outer(self, r, c):
        """(in, out, 3) from a value along d1 and one along d0."""
        return r[None, :] * c[:, None] if self.d0 == 0 else r[:, None] * c[None, :]

    def step(self, g, w):
        shape = np.shape(g)
        g = np.clip(np.asarray(g, np.float64), -1000, 1000).reshape(self.v.shape)
        w = np.asarray(w, np.float64).reshape(self.v.shape)
        q = g**2 + 1e-30
        for i, b in enumerate(DECAYS):
            self.m[..., i] = b * self.m[..., i] + (1 - b) * g
            if self.vector:
                self.d[..., i] = b * self.d[..., i] + (1 - b) * q
            else:
                self.r[:, i] = b * self.r[:, i] + (1 - b) * q.mean(axis=self.d0)
                self.c[:, i] = b * self.c[:, i] + (1 - b) * q.mean(axis=1 - self.d0)
        self.v = 0.95 * self.v + 0.05 * g**2
        direction = self._mlp(self._channels(g, w))
        if self.orthogonalize and not self.vector:
            direction = self._newton_schulz(direction)
        if not self.m.any():
            return np.zeros(shape)
        return (direction / np.sqrt(1e-9 + np.mean(direction**2))).reshape(shape)

    def _channels(self, g, w):
        s = 1 / np.sqrt(self.v + 1e-8)
        f = (
            _rho(self.d + 1e-9)
            if self.vector
            else self._outer(_rho(self.r / (self.r.mean(0) + 1e-9)), _rho(self.c))
        )
        one = np.ones_like(f)
        g3, s3 = g[..., None], s[..., None]
        table = [
            g3,
            np.clip(g3, -0.1, 0.1),
            w[..., None],
            self.m,
            self.v[..., None],
            self.m * s3,
            s3,
            g3 * f,
            g3 * s3,
        ]
        if not self.vector:
            spread_r, spread_c = (
                self._outer(self.r, np.ones_like(self.c)),
                self._outer(np.ones_like(self.r), self.c),
            )
            table += [
                spread_r,
                spread_c,
                one / np.sqrt(spread_r + 1e-8),
                one / np.sqrt(spread_c + 1e-8),
                self.m * f,
            ]
        axes = tuple(range(g.ndim))
        return [x / np.sqrt(1e-9 + np.mean(x**2, axis=axes, keepdims=True)) for x in table]

    def _mlp(self, table):
        t = self.theta
        h = t["b0"] + sum(x @ t[f"w0__{i}"] for i, x in enumerate(table))
        h = np.maximum(np.maximum(h, 0) @ t["w1"] + t["b1"], 0)
        return (h @ t["w2"] + t["b2"])[..., 0]

    def _newton_schulz(self, d):
        x = d / (np.linalg.norm(d) + 1e-8)
        transposed = x.shape[0] > x.shape[1]
        x = x.T if transposed else x
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return x.T if transposed else x


def oracle_steps(theta, grads, w, orthogonalize, lr=0.01, weight_decay=0.0, cautious=0.0):
    """Return steps, and parameters after each, for gradients (t, ..., in, out) of one parameter.

    Leading axes are a batch of matrices.
    """
    shape = w.shape
    matrices = [()] if len(shape) < 2 else list(np.ndindex(shape[:-2]))
    oracles = {
        i: MatrixOracle(theta, shape if len(shape) < 2 else shape[-2:], orthogonalize)
        for i in matrices
    }
    w, steps, params = np.array(w, np.float64), [], []
    for g in np.asarray(grads, np.float64):
        u = np.empty(shape)
        for i, oracle in oracles.items():
            u[i] = oracle.step(g[i], w[i])
        kept = np.where(u * w < 0, 1 - cautious, 1)
        w = w - lr * (u + weight_decay * kept * w)
        steps.append(u)
        params.append(w)
    return np.array(steps), np.array(params)
