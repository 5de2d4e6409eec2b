"""The command line: the only file that parses arguments. Frameworks are imported by the command that needs them."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from celo2.errors import InputError

try:
    import tyro
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError as error:
    sys.exit(f"celo2's commands need {error.name}; install it with: pip install 'celo2[cli]'")


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a small GPT on text by Celo2, AdamW and Muon under one schedule, and show who wins."""

    optimizers: tuple[str, ...] = ("celo2", "adamw", "muon-0.95", "muon-0.9")
    """Some of celo2, celo2-bf16 (its state in bfloat16), adamw, muon-0.95, muon-0.9."""
    theta: str = "celo2"
    """Theta of Celo2: a name that ships, or the path of a file."""
    text: Path | None = None
    """Text to train on; by default the source of the Python standard library."""
    steps: int = 300
    """Updates a run."""
    seed: int = 0
    """Of weights and batches."""
    seeds: int = 1
    """Runs of each optimizer and rate, from `seed` on; the table gives mean and spread."""
    sweep: bool = False
    """Try five rates of each optimizer in place of the recorded best one."""
    width: int = 128
    """Of the residual stream, a multiple of 32."""
    depth: int = 4
    """Transformer blocks."""
    out: Path | None = None
    """Folder of the results, runs.jsonl and curves.png; by default runs/train, or runs/sweep."""

    def __call__(self, console: Console) -> None:
        """Run and report."""
        from celo2.cli.train import compare, plan
        from celo2.data.text import from_file, standard_library
        from celo2.evaluate.torch_demo.gpt import GPTConfig
        from celo2.evaluate.torch_demo.train import RunConfig

        if not self.optimizers:
            raise InputError("--optimizers names none; give at least one")
        for name, least in (("steps", 1), ("seeds", 1), ("width", 1), ("depth", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} is {getattr(self, name)}; give at least {least}")
        if self.width % 32:
            raise InputError(f"--width is {self.width}; give a multiple of 32, the width of a head")
        template = RunConfig("", 0.0, self.seed, self.steps, model=GPTConfig(self.width, self.depth), theta=self.theta)
        configs = plan(self.optimizers, template, self.seeds, self.sweep)
        out = self.out or Path("runs") / ("sweep" if self.sweep else "train")
        compare(configs, from_file(self.text) if self.text else standard_library(), out, console)


@dataclasses.dataclass(frozen=True)
class MetaTrain:
    """Meta-train a theta from nothing. Interrupt it at any time; the same command goes on where it was."""

    preset: str = "celo2"
    """One of celo2, quick (a quarter of it), celo2-published-data, celo2-base, paper (PES, as published)."""
    out: Path | None = None
    """Folder of checkpoint, metrics and theta.safetensors; by default runs/meta-PRESET."""
    seed: int = 0
    """Of everything that is drawn."""
    outer_iterations: int | None = None
    """Outer steps, in place of the preset's."""
    trajectories: int | None = None
    """Of each network family, in place of the preset's; a multiple of processes and of accelerators."""
    paths: dict[str, Path] = dataclasses.field(default_factory=dict)
    """Folders of your own copies of data, as pairs: mnist FOLDER (IDX), cifar10 FOLDER (binary), svhn FOLDER (.mat)."""
    tensorboard: bool = False
    """Write TensorBoard files to the folder tensorboard in --out too."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes; give --processes and --process too. --out must be on shared storage."""
    processes: int | None = None
    """How many processes work together."""
    process: int | None = None
    """Which of them this is, from 0."""

    def __call__(self, console: Console) -> None:
        """Run and write theta."""
        import jax

        from celo2.cli.meta_train import tensorboard, train_theta
        from celo2.meta.config import from_settings, preset
        from celo2.meta.devices import use_cores

        if len({self.coordinator is None, self.processes is None, self.process is None}) == 2:
            raise InputError("--coordinator, --processes and --process go together; give all three or none")
        out = self.out or Path("runs") / f"meta-{self.preset}"
        changes = {"seed": self.seed, "outer_iterations": self.outer_iterations, "estimator.trajectories": self.trajectories}
        given = {name: value for name, value in changes.items() if value is not None}
        config = from_settings(given, preset(self.preset))
        use_cores(config.estimator.trajectories, processes=self.processes or 1)
        if self.coordinator is not None:
            jax.distributed.initialize(self.coordinator, self.processes, self.process)
            console.quiet = bool(self.process)  # the first one speaks
        if self.tensorboard and not self.process:
            with tensorboard(out / "tensorboard") as log:
                train_theta(self.preset, config, out, console, self.paths, log)
        else:
            train_theta(self.preset, config, out, console, self.paths)


@dataclasses.dataclass(frozen=True)
class Validate:
    """Tune AdamW, Muon and thetas on the validation problems, and show who is how good."""

    thetas: Annotated[tuple[str, ...], tyro.conf.Positional] = ("celo2",)
    """Names of thetas that ship, or paths of files."""
    problems: tuple[str, ...] = ("byte-transformer", "cifar10-conv", "fashion-mlp", "mnist-autoencoder", "byte-lstm")
    """Some of these."""
    seeds: int = 3
    """Runs at the best settings of each."""
    longer: int = 1
    """Train for so many times the steps."""
    jobs: int = 2
    """Processes, of one thread each."""
    out: Path = Path("records/validation")
    """Folder of runs.jsonl; runs that it holds are not repeated."""

    def __call__(self, console: Console) -> None:
        """Run and print the table."""
        from celo2.cli.validate import run_validation

        run_validation(self.thetas, self.problems, self.seeds, self.longer, self.jobs, self.out, console)


@dataclasses.dataclass(frozen=True)
class Experiments:
    """Print the table of the recorded experiments, or run some of them."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Experiments to run (or go on with) and record; none: only print."""
    folder: Path = Path("records/experiments")
    """Where their files are."""
    runs: Path = Path("runs/experiments")
    """Where they run."""

    def __call__(self, console: Console) -> None:
        """Run and print."""
        from celo2.cli import experiments
        from celo2.meta.devices import use_cores

        found = experiments.read(self.folder)
        unknown = [name for name in self.names if name not in found]
        if unknown:
            raise InputError(f"unknown experiment {unknown[0]!r}: take some of {', '.join(found)}")
        if self.names:
            use_cores(*(found[name].config.estimator.trajectories for name in self.names))
        for name in self.names:
            found[name] = experiments.run(found[name], self.folder, self.runs, console)
        console.print(experiments.table(list(found.values())))


@dataclasses.dataclass(frozen=True)
class Listen:
    """Show what thetas listen to: how their directions answer to gradient, momenta and weights."""

    thetas: Annotated[tuple[str, ...], tyro.conf.Positional] = ("celo2",)
    """Names of thetas that ship, or paths of files."""

    def __call__(self, console: Console) -> None:
        """Print the table."""
        from celo2.meta.sensitivity import table
        from celo2.theta import load_theta

        console.print(table([load_theta(theta) for theta in self.thetas]))


@dataclasses.dataclass(frozen=True)
class Data:
    """List, fetch or check the data sets."""

    action: Annotated[Literal["list", "get", "check"], tyro.conf.Positional]
    """list: what there is; get NAME...: fetch or make; check [NAME...]: compare with the published md5."""
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Data sets."""
    path: Path | None = None
    """Folder of your own copy of the one set to check."""

    def __call__(self, console: Console) -> None:
        """Do it."""
        from celo2.cli import data as command

        if self.action == "list":
            command.show_list(console)
        elif self.action == "check":
            command.check_all(self.names, self.path, console)
        else:
            if not self.names:
                raise InputError(f"data get needs a name; take some of {', '.join(command.NAMES)}")
            for name in self.names:
                command.get(name, console)


@dataclasses.dataclass(frozen=True)
class Routing:
    """Show which rule moves which parameter of a PyTorch model, and why."""

    model: Annotated[str, tyro.conf.Positional] = "celo2.evaluate.torch_demo.gpt:GPT"
    """module:callable that makes the model without arguments; by default the GPT of `celo2 train`."""

    def __call__(self, console: Console) -> None:
        """Print the table."""
        from celo2.torch import Celo2

        table = Table("name", "shape", "rule", "why")
        for route in Celo2(_model(self.model)).routing():
            table.add_row(route.name, "x".join(map(str, route.shape)), route.rule, route.why)
        console.print(table)


def _model(path: str) -> Any:
    """A PyTorch model of module:callable."""
    module, _, name = path.partition(":")
    sys.path.insert(0, "")  # the user's own modules, as with python -m
    try:
        model = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot make a model of {path!r} ({error}); give module:callable, callable without arguments"
        ) from error
    if not hasattr(model, "named_parameters"):
        raise InputError(f"{path!r} gives a {type(model).__name__}; give a callable that returns a torch.nn.Module")
    return model


COMMANDS: dict[str, type] = {
    "train": Train,
    "meta-train": MetaTrain,
    "validate": Validate,
    "experiments": Experiments,
    "listen": Listen,
    "data": Data,
    "routing": Routing,
}
EXTRAS = {"train": "bench", "routing": "torch"}
"""What to install for a command; meta for all others."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; bad input is one sentence on stderr and exit code 2."""
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="celo2", args=arguments, description="The learned optimizer Celo2."
    )
    name = next(key for key, value in COMMANDS.items() if isinstance(command, value))
    console = Console()
    errors = Console(stderr=True, soft_wrap=True)
    try:
        command(console)
    except InputError as error:
        errors.print(f"celo2 {name}: {error}", markup=False, highlight=False)
        sys.exit(2)
    except OSError as error:
        errors.print(f"celo2 {name}: {error}", markup=False, highlight=False)
        sys.exit(2)
    except ModuleNotFoundError as error:
        errors.print(
            f"celo2 {name} needs {error.name}; install it with: pip install 'celo2[{EXTRAS.get(name, 'meta')}]'", markup=False
        )
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print(f"celo2 {name}: interrupted")
        sys.exit(130)
