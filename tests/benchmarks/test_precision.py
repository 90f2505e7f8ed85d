"""Taking turns: each piece of work is done as often, in both orders, and right after itself."""

from __future__ import annotations

from benchmarks.precision import time_alternately


def test_turns_go_there_and_back_and_each_piece_is_timed_right_after_itself():
    done = []
    now = 0.0

    def work(name, first_s, later_s):
        def piece():
            nonlocal now
            now += later_s if name in done else first_s
            done.append(name)

        return piece

    pieces = {"slow": work("slow", 8.0, 2.0), "quick": work("quick", 8.0, 0.5)}
    seconds = time_alternately(pieces, 3, clock=lambda: now)
    there, back = ["quick"] * 2 + ["slow"] * 2, ["slow"] * 2 + ["quick"] * 2
    assert done == there + back + there
    assert seconds == {"slow": 2.0, "quick": 0.5}
