"""Protects progress: a bar on a terminal, and a plain line now and then in a file or a pipe."""

import io

import pytest
from rich.console import Console

from celo2.cli.terminal import INTERVAL, progress


class Clock:
    """Seconds, for a console that shows them."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock):
    return Console(file=io.StringIO(), get_time=clock, width=40)


def test_a_file_has_a_line_at_the_start_now_and_then_and_at_the_end(log, clock):
    with progress(log, "starting", 8) as update:
        for i in range(8):
            clock.now += 0.4 * INTERVAL
            update(advance=1, description=f"celo2 at [0.001], loss {8 - i}.125")
    assert log.file.getvalue().splitlines() == [
        "0 of 8 after 0:00:00: starting",
        "3 of 8 after 0:00:36: celo2 at [0.001], loss 6.125",
        "6 of 8 after 0:01:12: celo2 at [0.001], loss 3.125",
        "8 of 8 after 0:01:36: celo2 at [0.001], loss 1.125",
    ]


def test_a_long_unit_has_its_line_when_it_ends(log, clock):
    with progress(log, "tuning", 2) as update:
        clock.now += 4000
        update(completed=1)
        assert log.file.getvalue().splitlines()[-1] == "1 of 2 after 1:06:40: tuning"


def test_a_file_tells_where_a_command_was_interrupted(log, clock):
    def run():
        with progress(log, "tuning", 9) as update:
            clock.now += 1
            update(advance=2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert log.file.getvalue().splitlines()[-1] == "2 of 9 after 0:00:01: tuning"


def test_nothing_is_said_twice(log, clock):
    with progress(log, "compiling", 3) as update:
        clock.now += INTERVAL
        update(completed=3)
        clock.now += 1
        update(completed=3)
    assert log.file.getvalue().splitlines() == [
        "0 of 3 after 0:00:00: compiling",
        "3 of 3 after 0:00:30: compiling",
    ]


def test_a_terminal_has_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=True)
    with progress(console, "tuning", 2) as update:
        update(advance=2)
    shown = console.file.getvalue()
    assert "━" in shown
    assert "2/2" in shown
    assert " after " not in shown
