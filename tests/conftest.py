"""What every test shares: skipped is not passed, where the machine promises everything."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.testbed.plane import control_plane, helm_chart, helm_version  # noqa: F401  # fixtures for all

# A law is about what holds, not about how fast this machine is; with CI set, its examples are the same every time.
settings.register_profile(
    "runbook", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("runbook")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a script's background job has it, and all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)

PARTS = ("not slow and not timed", "slow and not timed", "timed")
"""The parts of `make test`, by their markers. The first one's coverage is measured in .ci/run."""

REQUIRE_ALL = os.environ.get("RUNBOOK_TEST_REQUIRE") == "all"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, object, None]:
    """With RUNBOOK_TEST_REQUIRE=all a skip is a failure: a machine that provisions everything must not lose a test."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's Result, untyped here
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"skipped although RUNBOOK_TEST_REQUIRE=all: {reason}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, object, None]:
    """The same for a whole module that skips itself when it is imported (`importorskip`)."""
    outcome = yield
    report: pytest.CollectReport = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's Result, untyped here
    if REQUIRE_ALL and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"skipped although RUNBOOK_TEST_REQUIRE=all: {reason}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A bound in time is shown when it holds once: a loaded machine may be late, a wrong program is always late."""
    for item in items:
        if item.get_closest_marker("timed"):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=3))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was skipped, a line for each reason, last. `make test` has three parts: the last one lists those of all."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(one.longrepr[2] if isinstance(one.longrepr, tuple) else str(one.longrepr) for one in reports)
    part, cache = config.getoption("markexpr"), getattr(config, "cache", None)  # -p no:cacheprovider
    if cache is not None and part in PARTS:
        cache.set(f"runbook/skipped-by-part/{part}", dict(reasons))
        for earlier in PARTS[: PARTS.index(part)]:
            reasons.update(cache.get(f"runbook/skipped-by-part/{earlier}", {}))
    if reasons:
        terminalreporter.section("skipped")
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"SKIPPED [{count}] {reason.removeprefix('Skipped: ')}")


def pytest_report_header() -> str:
    """Say which mode this is."""
    if REQUIRE_ALL:
        return "every skip is a failure (RUNBOOK_TEST_REQUIRE=all)"
    return "tests whose server is missing are skipped and listed last"
