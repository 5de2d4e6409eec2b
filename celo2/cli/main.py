"""The command line: parses arguments, runs one command, turns errors into one sentence.

A command is a frozen dataclass whose fields are its flags, in a file of its own. Frameworks are
imported by the command that needs them, when it runs.
"""

from __future__ import annotations

import dataclasses
import sys

from celo2.errors import InputError

try:
    import tyro

    from celo2.cli.bench import Bench
    from celo2.cli.data import Data
    from celo2.cli.experiments import Experiments
    from celo2.cli.inspect import Inspect
    from celo2.cli.meta_train import MetaTrain
    from celo2.cli.meta_train_policy import MetaTrainPolicy
    from celo2.cli.plan import Plan
    from celo2.cli.report import Report
    from celo2.cli.rl import RL
    from celo2.cli.routing import Routing
    from celo2.cli.terminal import terminal
    from celo2.cli.train import Train
    from celo2.cli.validate import Validate
except ModuleNotFoundError as error:
    sys.exit(f"celo2's commands need {error.name}; in a checkout: pip install -e '.[cli]'")

COMMANDS: dict[str, type] = {
    "train": Train,
    "meta-train": MetaTrain,
    "meta-train-policy": MetaTrainPolicy,
    "validate": Validate,
    "bench": Bench,
    "rl": RL,
    "experiments": Experiments,
    "inspect": Inspect,
    "data": Data,
    "routing": Routing,
    "plan": Plan,
    "report": Report,
}
EXTRAS = {"train": "demo", "routing": "torch", "rl": "rl"}
"""What to install for a command; meta for all others."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; bad input is one sentence on stderr and exit code 2."""
    if "" not in sys.path:
        sys.path.append("")  # the user's own modules, after all others
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="celo2", args=arguments, description="The learned optimizer Celo2."
    )
    name = next(key for key, value in COMMANDS.items() if isinstance(command, value))
    errors = terminal(stderr=True)
    try:
        command(terminal())
    except InputError as error:
        errors.print(f"celo2 {name}: {_with_flag(str(error), command)}")
        sys.exit(2)
    except OSError as error:
        errors.print(f"celo2 {name}: {error}")
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(name, "meta")
        install = f"pip install -e '.[{extra}]'"
        errors.print(f"celo2 {name} needs {error.name}; in a checkout: {install}")
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print(f"celo2 {name}: interrupted")
        sys.exit(130)


def _with_flag(message: str, command: object) -> str:
    """Write the parameter that a message of the library begins with as the flag it came by."""
    first, space, rest = message.partition(" ")
    flags = [field.name for field in dataclasses.fields(command)]  # type: ignore[arg-type]
    return f"--{first.replace('_', '-')}{space}{rest}" if first in flags else message
