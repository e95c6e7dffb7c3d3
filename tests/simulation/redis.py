"""Wake-ups: a hint that may be lost, late or doubled."""

from __future__ import annotations

from tests.simulation.world import Task, World


class Redis:
    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[Task] = []
        self._woken: set[Task] = set()
        self.away_until = 0.0
        self.lost, self.late = 0.0, 0.0
        """The parts of wake-ups that are lost, and that come late."""

    def push(self) -> bool:
        """Wake one worker that waits. Returns whether Redis has answered."""
        chance = self._world.random.random()
        if self._world.now < self.away_until:
            return False
        if chance < self.lost:
            return True
        delay = self._world.random.uniform(0.1, 3) if chance < self.lost + self.late else 0.001
        self._world.at(self._world.now + delay, self._pop)
        return True

    def wait(self, seconds: float) -> bool:
        """Wait for a wake-up, as a worker does. Returns whether there was one."""
        task = self._world.current
        assert task is not None
        self._waiting.append(task)
        self._world.sleep(seconds)
        if task in self._waiting:
            self._waiting.remove(task)
        is_woken = task in self._woken
        self._woken.discard(task)
        return is_woken

    def _pop(self) -> None:
        self._waiting = [task for task in self._waiting if task.process.is_alive]
        if self._waiting:
            task = self._waiting.pop(0)
            self._woken.add(task)
            self._world.wake(task)
