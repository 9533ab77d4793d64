"""Workers: what kills one task touches no other, and is told apart."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from flexconf.errors import InputError
from flexconf.workers import pool
from flexconf.workers.pool import Lost, Report

NEIGHBOURS = 20


class Unhappy(Exception):
    """With an argument that pickle does not know of."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"{what} {code}")


def misbehave(what: str, report: Report) -> object:
    report("trace")
    report("launch")
    match what:
        case "abort":
            os.abort()
        case "exit":
            print("last words", file=sys.stderr, flush=True)
            os._exit(1)
        case "exit silently with 0":
            os._exit(0)
        case "sys.exit":
            sys.exit(3)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "divide":
            os.kill(os.getpid(), signal.SIGFPE)
        case "out of memory":
            os.kill(os.getpid(), signal.SIGKILL)
        case "allocate":
            return len(b"x" * (1 << 62))
        case "hang":
            time.sleep(600)
        case "exception":
            raise ValueError("two\nlines")
        case "unpicklable exception":
            raise Unhappy(7, "code")
        case "unpicklable result":
            return threading.Lock()
        case "unreadable result":
            return Unhappy(7, "code")
        case "late exit":
            threading.Timer(0.1, os._exit, [5]).start()
        case "talk":
            print(*range(4000), sep="\n", file=sys.stderr, flush=True)
            os._exit(1)
        case "broken":
            return pool.Last(f"{os.getpid()}")
        case "who":
            return f"{os.getpid()}"
        case "where":
            return os.environ.get("FLEXCONF_PLACE", "nowhere")
        case "noise":
            print("noise of a task that went well", file=sys.stderr, flush=True)
            print("noise on stdout", flush=True)
            os.write(1, b"noise of native code")
    return what.upper()


def run(payloads: list[str], workers: int = 2, time_limit: float = 30.0) -> dict[str, object]:
    ended: dict[str, object] = {}

    def take(payload: str, result: object) -> None:
        assert payload not in ended, "one result a task"
        ended[payload] = result

    pool.run_many(payloads, misbehave, workers=workers, time_limit=time_limit, on_result=take)
    assert set(ended) == set(payloads)
    return ended


def test_every_kind_of_death_is_attributed_and_touches_no_neighbour() -> None:
    kinds = {
        "abort": ("signal", "signal SIGABRT"),
        "exit": ("exit", "exit code 1"),
        "exit silently with 0": ("exit", "exit code 0"),
        "segfault": ("signal", "signal SIGSEGV"),
        "divide": ("signal", "signal SIGFPE"),
        "out of memory": ("signal", "signal SIGKILL"),
        "hang": ("timeout", "time limit of 3 s"),
        "exception": ("exception", "ValueError"),
        "sys.exit": ("exception", "SystemExit"),
        "allocate": ("exception", "MemoryError"),
    }
    neighbours = [f"neighbour {i}" for i in range(NEIGHBOURS)]
    mixed = [x for pair in zip(neighbours, [*kinds], strict=False) for x in pair] + neighbours[len(kinds) :]
    ended = run(mixed, time_limit=3.0)
    for name in neighbours:
        assert ended[name] == name.upper()
    for name, (kind, how) in kinds.items():
        lost = ended[name]
        assert isinstance(lost, Lost), name
        assert (lost.kind, lost.how, lost.stage) == (kind, how, "launch")
        assert "\n" not in pool.describe(lost)
    assert pool.is_illegal_access(lost_of(ended["segfault"]))
    assert not pool.is_illegal_access(lost_of(ended["abort"]))
    assert pool.describe(lost_of(ended["exit"])) == "ended by exit code 1 during launch: last words"
    assert pool.describe(lost_of(ended["exception"])) == "ValueError during launch: two lines"


def lost_of(ended: object) -> Lost:
    assert isinstance(ended, Lost)
    return ended


def test_what_cannot_be_sent_back_is_still_that_tasks_result() -> None:
    names = ["unpicklable exception", "unpicklable result", "unreadable result"]
    ended = run([*names, "neighbour"], workers=1)
    assert ended["neighbour"] == "NEIGHBOUR"
    assert [lost_of(ended[name]).how for name in names] == ["Unhappy", "TypeError", "TypeError"]


def test_the_last_words_are_the_tasks_own_and_no_one_elses(capfd: pytest.CaptureFixture[str]) -> None:
    """One worker runs many tasks; what an earlier one printed says nothing of a later death, and is not shown."""
    ended = run(["noise", "abort"], workers=1)
    assert ended["noise"] == "NOISE"
    assert lost_of(ended["abort"]).detail == ""
    assert capfd.readouterr() == ("", "")


def test_long_last_words_are_cut_to_their_end() -> None:
    lost = lost_of(run(["talk"], workers=1)["talk"])
    assert lost.detail.endswith("3998 3999")
    assert len(lost.detail) <= 400
    assert "\n" not in lost.detail


@pytest.mark.parametrize(
    ("prepare", "why"), [("broken", "ImportError: the compiler is not there"), ("fatal", "signal SIGABRT: last words")]
)
def test_a_worker_that_cannot_start_is_said_at_once(prepare: str, why: str) -> None:
    seen: list[object] = []
    with pytest.raises(InputError, match=f"a worker could not start: {why}"):
        pool.run_many(
            ["a", "b"],
            misbehave,
            workers=2,
            on_result=lambda _, r: seen.append(r),
            prepare={"broken": broken, "fatal": fatal}[prepare],
        )
    assert seen == []


def broken() -> None:
    raise ImportError("the compiler is not there")


def fatal() -> None:
    os.write(2, b"last words")
    os.abort()


def test_a_death_between_tasks_loses_none() -> None:
    """A process that ends while it has nothing to do: the task that it is then given goes to another."""
    ended: dict[str, object] = {}

    def take(payload: str, result: object) -> None:
        ended[payload] = result
        time.sleep(0.3 if payload == "late exit" else 0.0)

    pool.run_many(["late exit", "neighbour", "other"], misbehave, workers=1, on_result=take)
    assert ended == {"late exit": "LATE EXIT", "neighbour": "NEIGHBOUR", "other": "OTHER"}


def test_nothing_to_do_and_no_workers() -> None:
    pool.run_many([], misbehave, workers=1, on_result=lambda *_: pytest.fail("no result to have"))
    with pytest.raises(ValueError, match="at least 1"):
        pool.run_many(["a"], misbehave, workers=0, on_result=lambda *_: None)


def test_an_error_of_the_receiver_stops_the_workers(tmp_path: Path) -> None:
    def refuse(payload: str, result: object) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.run_many(["a", "hang"], misbehave, workers=2, time_limit=500.0, on_result=refuse)
    assert time.monotonic() - started < 60


def test_a_process_that_calls_itself_broken_is_not_used_again() -> None:
    with pool.Crew(misbehave, workers=1) as crew:
        ended: list[object] = []
        crew.run(["who", "broken", "who", "who"], lambda _, result: ended.append(result))
    first, broken, second, third = ended
    assert first == broken
    assert first != second
    assert second == third


def test_a_crew_keeps_its_workers_from_one_list_to_the_next() -> None:
    ended: list[object] = []
    with pool.Crew(misbehave, workers=1) as crew:
        crew.run(["who"], lambda _, result: ended.append(result))
        crew.run(["who"], lambda _, result: ended.append(result))
        crew.run(["abort", "who"], lambda _, result: ended.append(result))
    assert ended[0] == ended[1]
    assert isinstance(ended[2], Lost)
    assert ended[3] != ended[0]


def test_workers_get_their_environments_round_robin_and_so_do_their_successors() -> None:
    places = [{"FLEXCONF_PLACE": "a"}, {"FLEXCONF_PLACE": "b"}]
    with pool.Crew(misbehave, workers=3, environments=places) as crew:
        ended: list[object] = []
        crew.run(["where"] * 30, lambda _, result: ended.append(result))
        assert set(ended) <= {"a", "b"}
        started = [w.environment["FLEXCONF_PLACE"] if w else None for w in crew._places]
        assert started == ["a", "b", "a"]
        crew.run(["abort"] * 6, lambda *_: None)
        crew.run(["where"] * 30, lambda _, result: ended.append(result))
        started = [w.environment["FLEXCONF_PLACE"] if w else None for w in crew._places]
        assert started == ["a", "b", "a"]
    assert "FLEXCONF_PLACE" not in os.environ
    assert len(ended) == 60
