"""Taking turns: each piece of work is done as often, and in both orders."""

from __future__ import annotations

import time

from benchmarks.precision import take_turns


def test_turns_go_there_and_back_and_the_first_is_not_counted():
    done = []

    def work(name, first_s, later_s):
        def piece():
            time.sleep(later_s if name in done else first_s)
            done.append(name)

        return piece

    seconds = take_turns({"slow": work("slow", 0.2, 0.02), "quick": work("quick", 0.2, 0.0)}, 3)
    assert done == ["quick", "slow", "slow", "quick"] * 2
    assert 0.02 <= seconds["slow"] < 0.2
    assert seconds["quick"] < seconds["slow"]
