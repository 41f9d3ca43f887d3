"""The loop that carries the engine's tasks: order, waiting, and that a bug is never lost."""

from __future__ import annotations

import asyncio

import pytest

from runbook.runner.quiet import Future, QuietLoop, Task


def test_tasks_run_in_the_order_in_which_they_became_ready() -> None:
    loop, seen = QuietLoop(), []
    first, second = loop.future(), loop.future()

    async def work(name: str, waits_for: Future[str]) -> None:
        seen.append(f"{name} begins")
        seen.append(f"{name} {await waits_for}")

    for name, waits_for in (("a", first), ("b", second), ("c", first)):
        loop.spawn(work(name, waits_for))
    loop.run_until_quiet()
    second.set_result("two")
    first.set_result("one")
    loop.run_until_quiet()
    assert seen == ["a begins", "b begins", "c begins", "b two", "a one", "c one"]


def test_any_number_may_wait_for_a_task_before_and_after_its_end() -> None:
    loop = QuietLoop()
    gate = loop.future()

    async def inner() -> int:
        return int(await gate) + 1

    task = loop.spawn(inner())

    async def outer() -> int:
        return await task * 10

    waiting = [loop.spawn(outer()) for _ in range(2)]
    loop.run_until_quiet()
    assert not task.done()
    gate.set_result(1)
    loop.run_until_quiet()
    late = loop.spawn(outer())
    loop.run_until_quiet()
    assert [one.result() for one in (*waiting, late)] == [20, 20, 20]


def test_a_value_comes_once_and_is_not_read_before() -> None:
    future: Future[int] = QuietLoop().future()
    with pytest.raises(RuntimeError, match="not there yet"):
        future.result()
    future.set_result(1)
    with pytest.raises(RuntimeError, match="already"):
        future.set_result(2)
    assert future.result() == 1


def test_what_a_task_raises_is_kept_and_nothing_more_runs() -> None:
    loop, seen = QuietLoop(), []

    async def bug() -> None:
        raise ZeroDivisionError("a bug")

    async def innocent() -> None:
        seen.append("ran")

    loop.spawn(bug())
    behind: Task[None] = loop.spawn(innocent())
    loop.run_until_quiet()
    assert isinstance(loop.crash, ZeroDivisionError)
    assert seen == []
    behind._coroutine.close()


def test_a_foreign_awaitable_is_a_bug_that_shows() -> None:
    loop = QuietLoop()

    async def lost() -> None:
        await asyncio.sleep(0)

    loop.spawn(lost())
    with pytest.raises(AttributeError):
        loop.run_until_quiet()
