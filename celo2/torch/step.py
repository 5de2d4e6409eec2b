"""One step of the rule for a batch of matrices, whole or sharded: four passes over the entries and little sums between them.

`direction` is a generator: it yields the sums that a sharded matrix needs from all ranks and is sent them back, so that whoever
drives it may reduce the sums of many matrices at once. A whole matrix drives itself (`step_`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from celo2 import rule
from celo2.rule import Accumulators, Channels, Weights
from celo2.rule.spec import Spec
from celo2.torch.kernels import Entries, Passes, Sides
from celo2.torch.stochastic_rounding import keep, noise

Orthogonalize = Callable[[Spec, Tensor], Tensor]
Totals = list[Tensor]


class Rule(NamedTuple):
    """A rule ready to be applied."""

    spec: Spec
    theta: Weights
    """Tensors of the working dtype: float32, or float64 for float64 parameters."""
    passes: Passes
    orthogonalize: Orthogonalize | None


class Move(NamedTuple):
    """What else a step needs to know: 0-d tensors, of which the first two may be (..., 1, 1), a number for each matrix."""

    finite: Tensor
    """Bool; where it is false nothing moves, neither the accumulators nor the parameter."""
    count: Tensor
    """Steps so far; random rounding draws by it."""
    rate: Tensor
    weight_decay: Tensor

    def of_each(self, count: int) -> Move:
        """With a number for each of `count` matrices."""
        finite, steps = (x.expand(count, 1, 1).contiguous() for x in (self.finite, self.count))
        return self._replace(finite=finite, count=steps)


class Window(NamedTuple):
    """Which part of the matrices (..., a, b) lies here."""

    shape: tuple[int, ...]
    index: tuple[slice, ...]

    def spread(self, x: Tensor, rows: bool = False, columns: bool = False) -> Tensor:
        """Zeros for all matrices with x, of what lies here, in its place; x runs along rows, along columns or neither."""
        whole = self.shape[-2] if rows else 1, self.shape[-1] if columns else 1
        full = x.new_zeros(*x.shape[: -len(self.shape)], *self.shape[:-2], *whole)
        full[(..., *self.index[:-2], *self._ends(rows, columns))] = x
        return full

    def near(self, x: Tensor, rows: bool = False, columns: bool = False) -> Tensor:
        """The part of x, known for all matrices, that belongs here."""
        return x[(..., *self.index[:-2], *self._ends(rows, columns))]

    def _ends(self, rows: bool, columns: bool) -> tuple[slice, slice]:
        return self.index[-2] if rows else slice(None), self.index[-1] if columns else slice(None)


class Job(NamedTuple):
    """Matrices (..., a, b), a <= b, and what is to be done with them."""

    rule: Rule
    accumulators: Accumulators
    """Views of the state."""
    g: Tensor
    """The gradient, same view as p; never written."""
    p: Tensor
    how: Move


def step_(job: Job) -> None:
    """Move the matrices and advance their accumulators, in place."""
    rule_, accumulators, g, p, how = job
    for here in chunks(g.shape, rule_.passes.tile):
        m, v = accumulators.momentum[:, *here], accumulators.second_moment[here]
        factored = tuple(f[:, *here] for f in accumulators.factored)
        if len(factored) == 1:
            _step_vector(rule_, Accumulators(m, v, factored), g[here], p[here], how)
            continue
        packed = [rule_.passes.without_gaps(x, v.ndim - 2, is_turned(p)) for x in (m, v, p[here], g[here])]
        factored = tuple(f.reshape(f.shape[0], *packed[1].shape[:-2], *f.shape[-2:]) for f in factored)
        # Fused kernels for batches know one kind of flag, that of stacks.
        of_these = how.of_each(len(packed[1])) if rule_.passes.fused and packed[1].ndim == 3 else how
        d, moved = drive(direction(rule_, Accumulators(packed[0], packed[1], factored), packed[3], packed[2], of_these))
        if rule_.orthogonalize is not None:
            d = rule_.orthogonalize(rule_.spec, d)
        move(rule_, packed[2], d, size(rule_.spec, mean_square(d), moved), of_these)
        for x, used in zip((m, v, p[here]), packed[:3], strict=True):
            if used.data_ptr() != x.data_ptr():
                x.copy_(used.view(x.shape))


def direction(
    rule_: Rule, accumulators: Accumulators, g: Tensor, p: Tensor, how: Move, window: Window | None = None
) -> Generator[Totals, Totals, tuple[Tensor, Tensor]]:
    """(the MLP's output, whether each matrix ever saw a gradient (..., 1, 1)) for matrices of which the window lies here.

    M, V, g and p are what lies here, R and C of the matrices as a whole; all accumulators are advanced in place. Yields sums
    over what lies here, spread over all matrices: first of squared gradients along b (..., a, 1) and along a (..., 1, b), of
    squared plain channels (12, ..., 1, 1) and of magnitudes (..., 1, 1); then of squared factored channels (6, ..., 1, 1).
    """
    spec, theta, passes, _ = rule_
    window = window or Window(tuple(g.shape), tuple(slice(None) for _ in g.shape))
    *_, a, b = window.shape
    # Passes go through memory in order; what they need to know of each side is turned with the matrices.
    turned = is_turned(p)

    def lay(x: Tensor) -> Tensor:
        return x.mT if turned else x

    momentum, second_moment, (r, c) = accumulators
    entries = Entries([lay(x) for x in momentum.unbind()], lay(second_moment), lay(g), lay(p))
    random = None
    if momentum.dtype == torch.bfloat16:
        random = noise(how.count, g.shape, [part.start or 0 for part in window.index[-2:]])
        random = random.mT if turned else random
    by_row, by_column, plain, magnitude = passes.accumulate(spec, entries, how.finite, random)
    along_b, along_a = (lay(by_column), lay(by_row)) if turned else (by_row, by_column)
    along_b, along_a, plain, magnitude = yield [
        window.spread(along_b, rows=True),
        window.spread(along_a, columns=True),
        window.spread(plain),
        window.spread(magnitude),
    ]
    for state, new in zip((r, c), rule.accumulate_factored(torch, spec, (r, c), (along_b / b, along_a / a)), strict=True):
        state.copy_(torch.where(how.finite, new, state))
    r, c = r.to(theta.w0.dtype), c.to(theta.w0.dtype)

    def sides(of_row: Tensor, of_column: Tensor) -> Sides:
        near = lay(window.near(of_row, rows=True)), lay(window.near(of_column, columns=True))
        return Sides(*reversed(near)) if turned else Sides(*near)

    factors = sides(*rule.preconditioners(torch, spec, (r, c)))
    (factored,) = yield [window.spread(passes.factored_squares(spec, entries, how.finite, factors))]
    constant = rule.side_channels(torch, spec, (r, c))
    entry_squares = rule.in_order(spec, [*plain], [*factored])
    squares = Channels([x / (a * b) for x in entry_squares], *(rule.mean_squares(torch, kind) for kind in constant))
    layer: Any = rule.fold(torch, spec, theta.w0, squares)
    # The axis of hidden units stands before those of the matrix; windows are cut with it out of the way.
    of_sides = (rule.first_layer(torch, w, kind).movedim(-3, 0) for w, kind in zip(layer[1:], constant, strict=True))
    hidden = Sides(*(x.movedim(0, -3) for x in sides(*of_sides)))
    d = passes.direction(spec, theta, window.near(layer.entries).contiguous(), hidden, factors, entries, how.finite)
    return lay(d), window.near(magnitude) > 0


def drive(work: Generator[Totals, Totals, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The result of `direction` for whole matrices, whose sums need nobody else's."""
    sums = next(work)
    while True:
        try:
            sums = work.send(sums)
        except StopIteration as end:
            return end.value


def mean_square(d: Tensor) -> Tensor:
    """Of each matrix (..., a, b), (..., 1, 1)."""
    norm = torch.linalg.vector_norm(d, dim=(-2, -1), keepdim=True)
    return norm * norm / (d.shape[-2] * d.shape[-1])


def size(spec: Spec, mean_square: Tensor, moved: Tensor) -> Tensor:
    """What d is multiplied by to have RMS 1, (..., 1, 1); zero for a matrix that never saw a gradient."""
    return moved / torch.sqrt(spec.normalize_epsilon + mean_square)


def move(rule_: Rule, p: Tensor, d: Tensor, size: Tensor, how: Move) -> None:
    """Move p (..., a, b) by d at RMS 1 and by weight decay."""
    turned = is_turned(p)
    rate = torch.where(how.finite, how.rate, 0)
    rule_.passes.move(*((p.mT, d.mT) if turned else (p, d)), size, rate, how.weight_decay)


def _step_vector(rule_: Rule, accumulators: Accumulators, g: Tensor, p: Tensor, how: Move) -> None:
    """A vector (1, n) under celo2-base: small, so the rule is applied as it stands."""
    work = rule_.theta.w0.dtype
    g = torch.where(how.finite, g.to(work), 0)
    old = Accumulators(accumulators.momentum.to(work), accumulators.second_moment.to(work), accumulators.factored)
    u, new = rule.update(torch, rule_.spec, rule_.theta, old, g, p.to(work), None)
    random = noise(how.count, g.shape) if accumulators.momentum.dtype == torch.bfloat16 else None
    entries = [*accumulators.momentum.unbind(), accumulators.second_moment]
    keep(entries, [*new.momentum.unbind(), new.second_moment], how.finite, random)
    keep(accumulators.factored, new.factored, how.finite, None)
    move(rule_, p, u, torch.ones_like(u[..., :1, :1]), how)


@contextlib.contextmanager
def without_autocast(devices: Iterable[str]) -> Iterator[None]:
    """Products in the dtype they are written in, also where the user's autocast is on around the optimizer."""
    with contextlib.ExitStack() as stack:
        for device in filter(torch.amp.is_autocast_available, devices):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def is_finite(g: Tensor) -> Tensor:
    """Whether all of a gradient is finite, 0-d; the extremes are the cheapest to find, and carry NaN with them."""
    return torch.stack(torch.aminmax(g)).isfinite().all()


def is_at_hand(flag: Tensor) -> bool:
    """Whether a look at a flag costs no wait; `flag.numpy()` is that look."""
    return type(flag) is Tensor and flag.is_cpu


def is_turned(p: Tensor) -> bool:
    """Whether the columns of p (..., a, b) lie further apart in memory than its rows, as those of most Linear layers do."""
    return p.stride(-1) > p.stride(-2)


def chunks(shape: torch.Size, limit: int) -> Iterator[tuple[slice | int, ...]]:
    """Indices of parts of a batch of matrices (..., a, b) of about `limit` entries each, or of one matrix each."""
    if len(shape) == 2 or (shape.numel() <= limit and shape[:-2].numel() > 1):
        yield ()
        return
    count = limit * shape[0] // max(1, shape.numel())
    for start in range(0, shape[0], max(1, count)):
        stop = min(start + max(1, count), shape[0])
        if stop - start > 1:
            yield (slice(start, stop),)
        else:
            yield from ((start, *rest) for rest in chunks(shape[1:], limit))
