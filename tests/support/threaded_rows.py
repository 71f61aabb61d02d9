"""An executor that really runs a schedule: a thread for each rank, which blocks where its step cannot start."""

from __future__ import annotations

import threading
from collections.abc import Callable

from oracle.compute_orders import main_places
from oracle.law import Case, Place


class Threads:
    """Runs each rank's row in a thread of its own; a step blocks until its inputs and its partners are there."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.main = main_places(case)
        self.partners: dict[Place, set[Place]] = {}
        for joined in self.main.values():
            for place in joined:
                self.partners.setdefault(place, set()).update(joined)
        self.changed = threading.Condition()
        self.version = 0
        self.ready: set[Place] = set()
        self.done: set[Place] = set()
        self.blocked: dict[int, int] = {}
        self.working = set(range(len(case.rows)))
        self.stuck = False

    def run(self) -> bool:
        threads = [threading.Thread(target=self.work, args=(rank,)) for rank in self.working.copy()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return not self.stuck

    def work(self, rank: int) -> None:
        with self.changed:
            for position in range(len(self.case.rows[rank])):
                place = rank, position
                self.wait(rank, lambda place=place: self.inputs_are_there(place))
                self.tell(self.ready, place)
                self.wait(rank, lambda place=place: self.everyone_with(place) <= self.ready)
                self.tell(self.done, place)
                if self.stuck:
                    return
            self.working.discard(rank)
            self.version += 1
            self.blocked.clear()
            self.changed.notify_all()

    def tell(self, facts: set[Place], place: Place) -> None:
        facts.add(place)
        self.version += 1
        self.changed.notify_all()

    def wait(self, rank: int, holds: Callable[[], bool]) -> None:
        """Wait until something holds, or until every thread waits in vain for the same state of things."""
        while not self.stuck and not holds():
            self.blocked[rank] = self.version
            self.stuck = all(self.blocked.get(other) == self.version for other in self.working)
            if self.stuck:
                self.changed.notify_all()
            else:
                self.changed.wait(timeout=20)

    def inputs_are_there(self, place: Place) -> bool:
        rank, position = place
        needed = {read for op in self.case.known[rank][position] for read in self.case.law.reads(op)}
        return all(self.main.get(op, set()) <= self.done for op in needed)

    def everyone_with(self, place: Place) -> set[Place]:
        found, stack = {place}, [place]
        while stack:
            for partner in self.partners.get(stack.pop(), set()) - found:
                found.add(partner)
                stack.append(partner)
        return found
