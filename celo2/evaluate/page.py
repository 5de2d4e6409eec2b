"""The benchmark's report: one HTML file that needs no other, light or dark, at any width.

`make docs` shows its sections as a page of the site.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from celo2.errors import InputError
from celo2.evaluate import agents, pictures
from celo2.evaluate import benchmark_tables as tables
from celo2.evaluate.evidence import BASELINE, Evidence, evidence, ratios
from celo2.evaluate.sensitivity import TITLES
from celo2.evaluate.tables import Table
from celo2.files import write

CSS = """
:root { color-scheme: light dark; --ink: #1c2430; --page: #fdfdfb; --line: #d8dce2;
  --band: #f1f3f5 }
@media (prefers-color-scheme: dark) { :root { --ink: #dde3ea; --page: #14181d; --line: #343c46;
  --band: #1c2229 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; color: var(--ink);
  background: var(--page); font: 16px/1.55 system-ui, sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2 } h2 { margin-top: 2.6rem; font-size: 1.25rem }
h3 { font-size: 1.05rem } p { max-width: 46rem }
table { border-collapse: separate; border-spacing: 0; font-size: .88rem }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right }
tr:first-child th { vertical-align: bottom; font-weight: 600; min-width: 6rem }
th:first-child { text-align: left; font-weight: 600; position: sticky; left: 0;
  background: var(--page) }
pre { overflow-x: auto; padding: .8rem 1rem; background: var(--band); border-radius: 6px;
  font-size: .85rem }
"""
PARTS_CSS = """
.scroll { overflow-x: auto; margin: 1rem 0; font-variant-numeric: tabular-nums }
.scroll :is(th, td) { white-space: nowrap } .scroll tr:first-child th { white-space: normal }
.scroll td.text { white-space: normal; min-width: 20rem; text-align: left }
.panels { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)) }
figure.panel { width: auto; max-width: 36em; margin: 0 }
figure.panel svg { display: block; width: 100%; height: auto }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1rem 0; font-size: .9em }
.key i { display: inline-block; width: 1.3rem; height: .25rem; margin-right: .4rem;
  vertical-align: middle; border-radius: 2px }
.soft { opacity: .75; font-size: .9em }
"""
"""Of what stands in the sections, wherever they are shown."""
COMMANDS = """\
celo2 bench --out records/benchmark
celo2 bench --part single --out records/benchmark
celo2 bench --part sensitivity --out records/benchmark
celo2 bench --part variants --out records/benchmark
celo2 rl --out records/rl
celo2 report --page report.html
"""


def write_page(path: Path, root: Path, folder: Path | None = None) -> None:
    """Write the report of a checkout's records, or of the benchmark's runs in another folder.

    Raises:
        InputError: no run of the benchmark is recorded.
    """
    found = evidence(root, folder)
    if not found.problems:
        raise InputError(
            f"{found.records.path} has no tuned optimizer; run: celo2 bench --out records/benchmark"
        )
    write(path, page(found).encode())


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report: its heading, and its content in HTML."""

    heading: str
    content: str


def page(found: Evidence) -> str:
    """Return the page."""
    body = introduction(found)
    for section in sections(found):
        body += f"\n<section>\n<h2>{section.heading}</h2>\n{section.content}\n</section>"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Celo2: the benchmark</title>\n<style>{CSS}{PARTS_CSS}</style></head>\n"
        f"<body>\n<h1>Celo2: the benchmark</h1>\n{body}\n</body>\n</html>\n"
    )


def sections(found: Evidence) -> list[Section]:
    """Return the sections; those without a recorded run are left out."""
    made = [_lost(found), _tuned(found), _single(found), _curves(found), _longer(found)]
    made += [_agents(found), _sensitivity(found), _variants(found), _costs(found), _commands()]
    return [section for section in made if section is not None]


def introduction(found: Evidence) -> str:
    """Return what was compared, and how many runs of which commits that took."""
    seconds, dates, commits = 0.0, [], set()
    for record in found.records:
        seconds += record.get("seconds", 0)
        dates.append(record["date"])
        commits.add(record["commit"][:9])
    seeds = ", ".join(map(str, found.seeds))
    return (
        f"<p>{len(found.baselines)} optimizers on {len(found.problems)} problems that no theta "
        "and no setting was chosen by (but two of total_steps=, see the docs), all with the same "
        "schedule, batches and initial weights. Settings are chosen on seed 0 and reported on "
        f"seeds {seeds}.</p>\n"
        f'<p class="soft">{len(dates):,} runs, {seconds / 3600:.1f} hours of training, '
        f"{min(dates)} to {max(dates)}, commits {', '.join(sorted(commits))}. Intervals are of a "
        "stratified bootstrap at 95 %: seeds are drawn again within each problem. A problem "
        "counts as won or lost if all seeds agree.</p>"
    )


def _lost(found: Evidence) -> Section:
    text = "Held-out loss of tuned Celo2 over that of the rival, both at their best settings."
    return _section("Where Celo2 loses", text, tables.lost(found).html())


def _tuned(found: Evidence) -> Section:
    theirs = found.tuned.get(BASELINE, {})
    paired = {name: ratios(mine, theirs) for name, mine in found.tuned.items() if name != BASELINE}
    label = "held-out loss over tuned AdamW's"
    picture = pictures.ratios(pictures.means(paired), label, tables.OURS)
    text = (
        "Each optimizer at its best settings on each problem. Geometric means; an optimizer that "
        "has runs on fewer problems is compared on those. Below 1 is better."
    )
    parts = [_figure(picture), tables.tuned(found).html()]
    parts.append("<h3>Held-out losses</h3>" + tables.tuned_losses(found).html())
    return _section("Tuned", text, *parts)


def _single(found: Evidence) -> Section | None:
    if not found.single:
        return None
    means = pictures.means(pictures.factors(found.single))
    label = "speed-up in steps over tuned AdamW"
    text = (
        "Each optimizer at one configuration for all problems, the best on the validation "
        "problems, against AdamW tuned on each problem. The speed-up is AdamW's number of steps "
        "over the steps to its loss, from runs of several lengths. Above 1 is better."
    )
    return _section(
        "One configuration",
        text,
        _figure(pictures.ratios(means, label, tables.OURS)) if means else "",
        tables.single(found).html(),
        "<h3>Speed-ups by problem</h3>" + tables.speed_ups(found).html(),
        "<h3>The configurations</h3>" + _shown(found).html(),
    )


def _shown(found: Evidence) -> Table:
    """Return the configurations of the optimizers that have runs at theirs."""
    table = tables.configurations(found)
    return Table(table.header, [row for row in table.rows if row[0] in found.single])


def _curves(found: Evidence) -> Section:
    figures = [_figure(pictures.curves(found, name)) for name in found.problems]
    text = "Training loss at the tuned settings: mean over seeds, and their range."
    return _section("Curves", text, _key(found, found.tuned), _grid(figures))


def _sensitivity(found: Evidence) -> Section | None:
    if not found.sweeps:
        return None
    parts = []
    for setting, problems in found.sweeps.items():
        figures = [_figure(pictures.sweep(found, setting, name)) for name in problems]
        names = set().union(*problems.values())
        shown = [name for name in found.baselines if name in names]
        heading = f"<h3>{TITLES[setting]}</h3>"
        parts += [heading, _key(found, shown), _grid(figures)]
    text = "One setting at a time is changed around the tuned ones. Cut at 1.3 times the best."
    bands = "<h3>Learning rates within 2 % of the best loss</h3>" + tables.bands(found).html()
    return _section("Sensitivity", text, bands, *parts)


def _variants(found: Evidence) -> Section | None:
    if not found.variants:
        return None
    text = (
        "The settings that are best on a problem, on variants of it: the loss over the lowest at a "
        "quarter to four times the learning rate, and in parentheses the lowest and its factor."
    )
    return _section("Variants", text, tables.variants(found).html())


def _agents(found: Evidence) -> Section | None:
    if not found.agents:
        return None
    text = (
        "Agents trained by PPO: mean return of their last episodes, interquartile mean over seeds. "
        "Adam runs at the published settings. Above Adam's is better."
    )
    return _section("Reinforcement learning", text, agents.table(found.agents).html())


def _longer(found: Evidence) -> Section | None:
    parts = []
    if found.longer:
        text = "<p>Held-out loss over tuned AdamW's, each tuned at that length.</p>"
        parts.append(f"<h3>Length</h3>{text}" + tables.longer(found).html())
    if found.ladder:
        text = "<p>GPTs at 20 tokens per parameter, at the settings tuned on the first.</p>"
        parts.append(f"<h3>Size</h3>{text}" + tables.ladder(found).html())
    return _section("Length and size", "", *parts) if parts else None


def _costs(found: Evidence) -> Section:
    text = (
        "The time of a step is that of the whole run over its steps, network included: the "
        "shortest of all runs, geometric mean over problems. On small networks the network weighs "
        "little."
    )
    return _section("Cost", text, tables.costs(found).html())


def _commands() -> Section:
    text = (
        "From a checkout. Runs that are recorded are not repeated; docs/benchmark.md says what "
        "is measured and what is not."
    )
    return _section("Run it again", text, f"<pre><code>{html.escape(COMMANDS)}</code></pre>")


def _section(heading: str, text: str, *parts: str) -> Section:
    lead = [f"<p>{text}</p>"] if text else []
    return Section(heading, "\n".join([*lead, *parts]))


def _key(found: Evidence, names: Iterable[str]) -> str:
    """Return the colors of optimizers as a list."""
    shades = pictures.colors(found)
    entries = []
    for name in names:
        swatch = f'<i style="background:{shades[name]}"></i>'
        entries.append(f"<span>{swatch}{html.escape(name)}</span>")
    return f'<div class="key">{"".join(entries)}</div>'


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="panels">{"".join(figures)}</div>'


def _figure(svg: str) -> str:
    return f'<figure class="panel">{svg}</figure>'
