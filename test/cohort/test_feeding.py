"""How many cases are in work at once in a process."""

from __future__ import annotations

import threading
import time

import pytest

from oarseg.cohort.feeding import MOST_CHOSEN, Company, MeasuredCase, NetworkTurn, choose_feeders

GIB = 1 << 30


def measured(
    network_s: float = 5.0,
    beside_s: float = 5.0,
    idle: float = 8.0,
    memory: int = GIB,
    room: int = 100 * GIB,
) -> MeasuredCase:
    return MeasuredCase(network_s, beside_s, idle, memory, room)


@pytest.mark.parametrize(
    ("case", "feeders"),
    [
        (measured(), 2),  # one keeps the network busy, and one more because cases differ
        (measured(beside_s=15), 4),
        (measured(beside_s=0.1), 2),
        (measured(beside_s=15, idle=2), 2),  # no more than there are cores for
        (measured(idle=0.3), 0),  # as with a network on a CPU, which keeps all cores busy
        (measured(beside_s=500, idle=64), MOST_CHOSEN),
        (measured(network_s=0.0), MOST_CHOSEN),
        (measured(room=3 * GIB), 2),  # three in memory: one in the network, two beside it
        (measured(room=2 * GIB + 1), 1),
        (measured(room=GIB), 0),
        (measured(memory=0), 2),
    ],
)
def test_feeders_keep_the_network_busy_and_fit(case: MeasuredCase, feeders: int) -> None:
    assert choose_feeders([case], workers=1) == feeders


def test_workers_of_a_machine_share_its_memory() -> None:
    assert choose_feeders([measured(room=6 * GIB)], workers=1) == 2
    assert choose_feeders([measured(room=6 * GIB)], workers=2) == 2
    assert choose_feeders([measured(room=6 * GIB)], workers=3) == 1


def test_the_largest_case_counts_for_memory_and_the_mean_for_time() -> None:
    cases = [measured(beside_s=2, memory=GIB), measured(beside_s=18, memory=40 * GIB)]
    assert choose_feeders(cases, workers=1) == 1
    cases = [measured(beside_s=2), measured(beside_s=18)]
    assert choose_feeders(cases, workers=1) == 3


def test_a_turn_tells_waiting_from_computing() -> None:
    gate = threading.Lock()
    turn = NetworkTurn(gate)
    gate.acquire()
    threading.Timer(0.3, gate.release).start()
    with turn:
        end_s = time.process_time() + 0.1
        while time.process_time() < end_s:
            pass
    assert turn.waited_s >= 0.25
    assert turn.held_s >= 0.1
    assert turn.cpu_s >= 0.1
    assert not gate.locked()


def test_a_turn_that_fails_is_over() -> None:
    gate = threading.Lock()
    with pytest.raises(ValueError, match="in the network"), NetworkTurn(gate):
        raise ValueError("in the network")
    assert not gate.locked()


def test_alone_is_alone() -> None:
    """Two want to be alone, four are beside others; none of them overlap with one alone."""
    company, inside, faults = Company(), [0, 0], []
    lock = threading.Lock()

    def work(place: int) -> None:
        for _ in range(20):
            with company.alone() if place else company.among_others():
                with lock:
                    inside[place] += 1
                    if inside[1] and sum(inside) > 1:
                        faults.append(tuple(inside))
                time.sleep(0.001)
                with lock:
                    inside[place] -= 1

    threads = [threading.Thread(target=work, args=[place]) for place in (0, 0, 0, 0, 1, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert faults == []
