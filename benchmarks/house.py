"""Measure the source: lines, functions, comprehensions, comments; write a table in CONTRIBUTING.md.

python -m benchmarks.house           print the table
python -m benchmarks.house --write   write it between its marks in CONTRIBUTING.md
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
START, END = "<!-- table:house -->", "<!-- /table -->"
ROOMS = {
    "celo2": "celo2",
    "- rule, parameters": "celo2/rule celo2/parameters",
    "- torch": "celo2/torch",
    "- jax, baselines": "celo2/jax celo2/baselines",
    "- meta": "celo2/meta",
    "- data, tasks": "celo2/data celo2/tasks",
    "- evaluate, cli": "celo2/evaluate celo2/cli",
    "- where memory or messages move": (
        "celo2/torch/pack.py celo2/torch/kernels.py celo2/torch/distributed.py "
        "celo2/torch/update.py celo2/torch/plan.py celo2/torch/layout.py celo2/torch/gradients.py "
        "celo2/torch/adamw.py celo2/torch/stochastic_rounding.py celo2/rule/features.py "
        "celo2/meta/devices.py celo2/meta/inner.py"
    ),
    "benchmarks": "benchmarks",
    "tests": "tests",
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
HEADER = (
    "| | files | lines | functions | longest | comprehensions per 100 lines "
    "| comments per 100 lines of code | lines above 100 columns |\n"
    "|---|---|---|---|---|---|---|---|"
)


def measure(paths: list[Path]) -> list[str]:
    """Return one row of the table."""
    lengths, lines, comprehensions, comments, code, wide = [], 0, 0, 0, 0, 0
    for path in paths:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            comprehensions += isinstance(node, COMPREHENSIONS)
            if isinstance(node, FUNCTIONS):
                lengths.append(_length(node))
        comments += _comments(text)
        for line in text.splitlines():
            lines += 1
            code += bool(line.strip())
            wide += len(line) > 100
    per = 100 / max(1, code)
    return [
        str(len(paths)),
        str(lines),
        f"{len(lengths)}, median {statistics.median(lengths or [0]):.0f}",
        str(max(lengths or [0])),
        f"{comprehensions * per:.1f}",
        f"{comments * per:.1f}",
        str(wide),
    ]


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function from `def` to its end, without its docstring."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        length -= (first.end_lineno or first.lineno) - first.lineno + 1
    return length


def _comments(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def rows() -> Iterator[str]:
    """Yield the rows of the table."""
    for name, folders in ROOMS.items():
        paths: list[Path] = []
        for folder in folders.split():
            place = ROOT / folder
            paths += [place] if place.is_file() else sorted(place.rglob("*.py"))
        yield f"| {name} | {' | '.join(measure(paths))} |"


def main() -> None:
    """Print the table, or write it."""
    table = "\n".join([HEADER, *rows()])
    print(table)
    if "--write" in sys.argv[1:]:
        path = ROOT / "CONTRIBUTING.md"
        text = path.read_text()
        before, _, rest = text.partition(START)
        _, _, after = rest.partition(END)
        path.write_text(f"{before}{START}\n{table}\n{END}{after}")


if __name__ == "__main__":
    main()
