"""Processes are told apart, and dead ones are known."""

from __future__ import annotations

import os
import subprocess
import sys

from jobs.making import dead_worker, this_worker

from ram_backend.jobs.processes import Worker


def test_living_and_dead() -> None:
    assert not this_worker().is_known_dead
    assert dead_worker().is_known_dead


def test_one_dead_process_is_enough() -> None:
    dead, living = dead_worker(), this_worker()
    assert Worker(living.host, (*living.processes, *dead.processes)).is_known_dead


def test_a_number_given_to_another_process() -> None:
    (pid, _), host = this_worker().processes[0], this_worker().host
    assert Worker(host, ((pid, "12345"),)).is_known_dead


def test_another_machine_is_never_known() -> None:
    assert not Worker("elsewhere-00000000", dead_worker().processes).is_known_dead


def test_ended_and_not_yet_buried() -> None:
    """A process whose parent has not looked yet has ended all the same."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker = Worker.of(process.pid)
    assert not worker.is_known_dead
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert worker.is_known_dead
    process.wait()


def test_text_and_back() -> None:
    worker = Worker.of(os.getpid(), os.getppid())
    assert Worker.parse(str(worker)) == worker
    assert Worker.parse("something/else") is None
