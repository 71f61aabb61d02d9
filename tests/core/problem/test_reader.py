"""Single values are taken by the shape of their key."""

from __future__ import annotations

from decimal import Decimal

from support.wrong_problems import made, told


def test_a_tick_that_would_do_is_named_for_the_whole_file() -> None:
    found = told(tick="us", costs={"forward": 18.5, "backward": Decimal("3.25")}, limits={"makespan": 10.125})
    for key, here in (("costs.forward", 18500), ("costs.backward", 3250), ("limits.makespan", 10125)):
        assert found[key].message.endswith("is no multiple of the tick (us)")
        assert found[key].hint == f'tick = "0.001 us" would do, with every duration in it: here {here}'
    overlapped = [{"forward": 0, "backward": 1, "cost": 0.5}]
    assert "0.1 tick" in told(costs={"overlapped": overlapped})["costs.overlapped[0].cost"].hint
    matrix = [[0, 1.5, 1, 1], *[[1] * 4] * 3]
    assert "0.1 tick" in told(links={"latency": matrix})["links.latency[0][1]"].hint
    assert made(costs={"forward": 18.0}).forward == (18,) * 4
