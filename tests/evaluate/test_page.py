"""Protects the benchmark's tables and its page: from hand-made runs to numbers known by hand."""

import dataclasses
import html.parser

import pytest

from celo2 import InputError
from celo2.evaluate import benchmark_tables as tables
from celo2.evaluate.baselines import ADAMW, MUON, OPTIMIZERS
from celo2.evaluate.comparison import Comparison
from celo2.evaluate.evidence import Evidence, evidence, ratios, won_and_lost
from celo2.evaluate.page import page, write_page
from celo2.evaluate.records import Records
from celo2.evaluate.scores import Score, run_of
from celo2.evaluate.single import Configuration
from celo2.evaluate.suites import BENCHMARK, LADDER, VALIDATION, Problem
from celo2.evaluate.variants import variant_name
from tests.families import Quadratic

FIRST, SECOND = list(BENCHMARK)[:2]
CELO2 = OPTIMIZERS["celo2"].make()
LOSSES = {
    ADAMW: {FIRST: (2.0, 4.0), SECOND: (1.0, 1.0)},
    MUON: {FIRST: (1.0, 2.0), SECOND: (1.0, 1.5)},
    CELO2: {FIRST: (0.5, 1.0), SECOND: (1.25, 1.1)},
}
"""Of seeds 1 and 2."""
SETTINGS = {"learning_rate": 1e-3}


@pytest.fixture
def found(tmp_path):
    """Two problems, three optimizers, tuned; Celo2 also at one configuration of three lengths."""
    records = Records(tmp_path / "records/benchmark/runs.jsonl")
    rest = {
        "curve": [3.0, 2.5, 2.0],
        "seconds": 3.0,
        "parameters": 100,
        "state_bytes": 800,
        "date": "2026-01-01",
        "commit": "abcdef0123",
    }
    for baseline, by_problem in LOSSES.items():
        for problem, losses in by_problem.items():
            for seed, loss in zip((0, 1, 2), (1.0, *losses), strict=True):
                steps = BENCHMARK[problem].steps
                run = run_of(problem, steps, baseline, SETTINGS, seed)
                records.add(run, {"loss": loss, **rest})
    return Evidence(
        records,
        Records(tmp_path / "records/validation/runs.jsonl"),
        {name: entry.steps for name, entry in BENCHMARK.items()},
    )


def test_the_ratio_to_adamw_is_a_geometric_mean_over_problems(found):
    """Muon: (0.5, 0.5) and (1, 1.5), so sqrt(0.5 * sqrt(1.5)); Celo2: sqrt(.25 * sqrt(1.375))."""
    rows = {row[0]: row for row in tables.tuned(found).rows}
    assert rows["Muon"][3].startswith(f"{(0.5 * 1.5**0.5) ** 0.5:.3f} (")
    assert rows["Celo2"][3].startswith(f"{(0.25 * 1.375**0.5) ** 0.5:.3f} (")
    assert rows["Celo2"][1:3] == ("2", "1"), "problems, and runs on the tuning seed"
    assert rows["Celo2"][5] == "1, 1, 0"
    assert rows["Muon"][5] == "0, 1, 1", "on the second problem one seed is a draw"


def test_losses_come_first_and_the_worst_of_them_before_others(found):
    """On the second problem: 2.35 over 2 of AdamW's, and 2.35 over 2.5 of Muon's is no loss."""
    expected = (BENCHMARK[SECOND].title, "AdamW", "1.175", "2 of 2")
    assert tables.lost(found).rows == [expected]
    text = page(found)
    assert text.index("Where Celo2 loses") < text.index("<h2>Tuned")


def test_a_problem_is_won_or_lost_if_all_seeds_agree():
    assert won_and_lost([(0.9, 0.8), (1.1, 1.2), (0.9, 1.1), (1.0, 1.0)]) == (1, 1, 2)


def test_ratios_are_of_common_problems(found):
    assert ratios(found.tuned["Muon"], {FIRST: found.tuned["AdamW"][FIRST]}) == {FIRST: [0.5, 0.5]}


def test_costs_are_of_the_recorded_runs(found):
    assert tables.costs(found).rows[1] == ("Muon", "1.00", "8.0")


def test_the_speed_up_is_to_tuned_adamws_loss(found):
    """AdamW's losses are 2 and 4; Celo2 has 1 at T and 3 at T/2, so seed 1 reaches 2 halfway."""
    full = BENCHMARK[FIRST].steps
    found.__dict__["configurations"] = {"Celo2": Configuration({}, {full: 0.5})}
    for steps, loss in ((full, 1.0), (full // 2, 3.0)):
        for seed in (1, 2):
            run = run_of(FIRST, steps, CELO2, {"learning_rate": 0.5}, seed)
            found.records.add(run, {"loss": loss})
    speed = found.single["Celo2"][FIRST]
    assert speed.factors == pytest.approx([2**0.5, 2.0])
    assert speed.bound, "seed 2 reaches AdamW's 4 with the shortest run already"


def test_a_run_of_one_length_tells_no_speed_up(found):
    """Whether AdamW's loss is reached at T is known, and not how soon."""
    full = BENCHMARK[FIRST].steps
    found.__dict__["configurations"] = {"Celo2": Configuration({}, {full: 0.5})}
    for seed in (1, 2):
        run = run_of(FIRST, full, CELO2, {"learning_rate": 0.5}, seed)
        found.records.add(run, {"loss": 1.0, "date": "2026-01-02", "commit": "abc"})
    name, problems, loss, speed, seconds, counts = tables.single(found).rows[0]
    assert (name, problems, speed, seconds, counts) == ("Celo2", "1", "", "", "0, 1, 0")
    assert loss.startswith("0.354"), "sqrt(1/2 * 1/4)"
    assert "One configuration" in page(found)


def test_agents_have_a_section_where_they_were_trained(found):
    assert "Reinforcement learning" not in page(found)
    score = Score({}, dict.fromkeys(range(1, 9), -12.5))
    with_agents = dataclasses.replace(found, agents={"Muon": {"breakout": score}})
    assert "<td>12.5 (12.5 to 12.5)</td>" in page(with_agents)


def test_longer_runs_and_the_ladder_have_their_tables(found):
    rung, *_ = LADDER
    lengths = {FIRST: 5 * BENCHMARK[FIRST].steps, rung: LADDER[rung].steps}
    for baseline, loss in ((ADAMW, 2.0), (CELO2, 1.0)):
        for problem, steps in lengths.items():
            for seed in (0, 1):
                run = run_of(problem, steps, baseline, SETTINGS, seed)
                found.records.add(run, {"loss": loss, "date": "2026-01-02", "commit": "abc"})
    ((problem, steps, *ratios),) = tables.longer(found).rows
    assert problem == BENCHMARK[FIRST].title
    assert steps == f"{5 * BENCHMARK[FIRST].steps:,} (5 x)"
    assert ratios == ["1.000", "0.500"], "of AdamW and Celo2; Muon has no longer runs"
    assert tables.ladder(found).rows[0][2:] == ("2 (1.000)", "1 (0.500)")
    assert "<h3>Length</h3>" in page(found)
    assert "<h3>Size</h3>" in page(found)


def test_there_is_no_ratio_to_what_diverged(found):
    for baseline, loss in ((ADAMW, None), (CELO2, 1.0)):
        for seed, value in ((0, 1.0), (1, loss)):
            run = run_of(FIRST, 5 * BENCHMARK[FIRST].steps, baseline, SETTINGS, seed)
            found.records.add(run, {"loss": value})
    ((_, _, *shown),) = tables.longer(found).rows
    assert shown == ["diverged", "1"]


@pytest.mark.slow
def test_the_whole_protocol_on_a_tiny_problem_ends_in_a_page(tmp_path):
    """What `celo2 bench --quick` and its further parts do, in seconds."""
    path, validation = tmp_path / "runs.jsonl", Records(tmp_path / "validation.jsonl")
    for problem, entry in VALIDATION.items():
        for rate in (0.01, 0.1):
            settings = {"learning_rate": rate, "b1": 0.9, "b2": 0.999}
            run = run_of(problem, entry.steps, ADAMW, settings, 0)
            validation.add(run, {"loss": 2 - rate})
    tiny = Problem("tiny", Quadratic, 12)
    comparison = Comparison({"AdamW": ADAMW}, [tiny], path, seeds=2, tuning_runs=3)
    for units in (comparison.tuning(), comparison.single(validation.path)):
        assert len(list(comparison.run(units))) == 1
    ((_, curves),) = comparison.run(comparison.sensitivity(("weight_decay",)))
    content = path.read_bytes()
    found = Evidence(Records(path), validation, {"tiny": 12}, (1, 2))
    assert found.tuned["AdamW"]["tiny"].settings["learning_rate"] >= 2e-3
    assert found.configurations["AdamW"].settings(12)["learning_rate"] == 0.1
    assert found.single["AdamW"]["tiny"].factors[0] > 1, "0.1 beats what three runs have found"
    assert found.sweeps["weight_decay"]["tiny"]["AdamW"] == curves["weight_decay"]
    text = page(found)
    for heading in ("Where Celo2 loses", "Tuned", "One configuration", "Sensitivity", "Cost"):
        assert f"<h2>{heading}</h2>" in text
    assert path.read_bytes() == content, "a report runs nothing"


class Strict(html.parser.HTMLParser):
    """Collects what a page refers to, and checks that each element is closed in its turn."""

    def __init__(self):
        super().__init__()
        self.open, self.references = [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not value.startswith("#"):
                self.references.append(value)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_refers_to_no_other(found):
    parser = Strict()
    parser.feed(page(found))
    assert parser.open == []
    assert parser.references == []
    assert "#808182" not in page(found), "text and lines take the color of the page"


def test_a_page_without_runs_says_how_to_make_them(tmp_path):
    with pytest.raises(InputError, match="has no tuned optimizer; run: celo2 bench --out"):
        write_page(tmp_path / "page.html", tmp_path)
    assert evidence(tmp_path).problems == []
    assert not (tmp_path / "page.html").exists()


def test_a_variant_has_the_loss_at_the_tuned_settings_over_the_best_around(found):
    name = variant_name(FIRST, "batch-4x")
    for factor, loss in ((0.5, 4.0), (1.0, 3.0), (2.0, 2.0)):
        settings = {"learning_rate": factor * 1e-3}
        run = run_of(name, BENCHMARK[FIRST].steps, ADAMW, settings, 1)
        found.records.add(run, {"loss": loss, "date": "2026-01-02", "commit": "abc"})
    assert tables.variants(found).rows == [
        (BENCHMARK[FIRST].title, "batch size x 4", "1.500 (2 at x2)"),
    ]
    assert "<h2>Variants</h2>" in page(found)


def test_what_has_nothing_to_tune_counts_no_tuning_runs(tmp_path):
    """Prodigy as it is published shares its records with the one that is tuned."""
    records = Records(tmp_path / "runs.jsonl")
    settings = {"learning_rate": 1.0, "b1": 0.9, "b2": 0.999}
    for seed in (0, 1):
        run = run_of("tiny", 12, OPTIMIZERS["prodigy"].make(), settings, seed)
        records.add(run, {"loss": 1.0})
    found = Evidence(records, records, {"tiny": 12}, (1,))
    assert found.tuning_runs("Prodigy") == [1]
    assert found.tuning_runs("Prodigy, nothing tuned") == [0]
