"""`celo2 validate`: thetas beside tuned baselines, as a person sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from celo2.errors import InputError
from celo2.evaluate.tune import BASELINES, Contender, Score, relative, validate
from celo2.theta import load_theta


def run_validation(
    thetas: Sequence[str], names: Sequence[str], seeds: int, longer: int, jobs: int, out: Path, console: Console
) -> dict[str, dict[str, Score]]:
    """Tune and score the baselines and the thetas; scores by contender, then problem. Finished runs in `out` are not repeated.

    Raises:
        InputError: a number out of range, an unknown problem or theta, or two thetas of one name.
    """
    for name, value in (("seeds", seeds), ("longer", longer), ("jobs", jobs)):
        if value < 1:
            raise InputError(f"--{name} is {value}; give at least 1")
    if not names:
        raise InputError("--problems names none; give at least one")
    contenders = [*BASELINES, *(Contender(_shown(source), "celo2", load_theta(source)) for source in thetas)]
    shown = [c.name for c in contenders]
    if len(set(shown)) < len(shown):
        raise InputError(f"two of the thetas go by one name ({', '.join(shown)}); give each file a name of its own")
    scores: dict[str, dict[str, Score]] = {name: {} for name in shown}
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*bar, console=console) as progress:
        task = progress.add_task("tuning", total=len(contenders) * len(names))
        for contender, name, score in validate(contenders, names, seeds, out, jobs, longer):
            scores[contender][name] = score
            progress.advance(task)
    console.print(table(scores, names))
    return scores


def table(scores: Mapping[str, Mapping[str, Score]], names: Sequence[str]) -> Table:
    """Held-out loss and its ratio to the better baseline, best mean first."""
    ratios = relative(scores)
    means = {name: sum(mine.values()) / len(mine) for name, mine in ratios.items()}
    out = Table("", *names, "mean ratio", caption="held-out loss, ± over seeds, and its ratio to the better tuned baseline")
    for name in sorted(means, key=lambda n: means[n]):
        cells = [f"{scores[name][p].mean:.4f} ±{scores[name][p].deviation:.4f}  {ratios[name][p]:.3f}" for p in names]
        out.add_row(name, *cells, f"{means[name]:.4f}")
    return out


def _shown(source: str) -> str:
    """A name to print: that of a shipped theta, or of the file, or of its folder where all files are called theta."""
    path = Path(source)
    return path.parent.name if path.stem == "theta" else path.stem if path.suffix else source
