"""Data for the tests: the bundled data set, built once, and a twentieth of it. And: no skipped test in CI."""

from __future__ import annotations

import errno
import os
import pty
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from slurm.monitoring import run_state
from tests.helpers import cluster as clusters
from tests.helpers.digits import digits, twentieth
from tests.helpers.paths import TESTS
from tests.helpers.shared import made_once

SLOWEST = [
    "ifl/test_resume",
    "sharding/test_remote_shards",
    "ifl/test_recipes_train",
    "ifl/test_methods",
    "ifl/test_models",
    "ifl/test_train",
    "system/test_slurm",
    "recipes/test_recipes",
    "sharding/samples/test_end_to_end",
    "sharding/test_mscoco_glt",
    "ifl/test_watchdog",
    "sharding/test_digits_glt",
    "ifl/test_stages",
    "analysis/test_figures",
    "slurm/test_launch",
    "sharding/test_imagenet_glt",
    "sharding/test_decoded_images",
    "ifl/test_finished_run",
    "sharding/test_reader",
    "ifl/test_engine",
    "ifl/test_paper_rows",
]
"""With several workers these files begin, so that none of them is left for the end."""
FAST = {
    "analysis/test_baseline",
    "analysis/test_bootstrap",
    "analysis/test_comparison",
    "analysis/test_golden",
    "analysis/test_light_copy",
    "analysis/test_tables",
    "house/test_imports",
    "house/test_readability",
    "ifl/test_environments",
    "ifl/test_losses",
    "ifl/test_metrics",
    "ifl/test_run_log",
    "recipes/test_recipes",
    "recipes/test_rules",
    "sharding/samples/test_classes",
    "sharding/samples/test_splits",
    "sharding/samples/test_tails",
    "sharding/test_augment",
    "sharding/test_coco_splits",
    "sharding/test_decoders",
    "sharding/test_plan",
    "slurm/test_scaling",
    "slurm/test_status",
}
"""Files of pure functions, or nearly so; `pytest -m fast` runs them in less than a minute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is fast, and in a worker put the slowest files first."""
    for item in items:
        if file_of(item) in FAST and not item.get_closest_marker("full"):
            item.add_marker("fast")
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {name: place for place, name in enumerate(SLOWEST)}
        items.sort(key=lambda item: order.get(file_of(item), len(order)))


def file_of(item: pytest.Item) -> str:
    """A test's file below tests/, without its ending."""
    return item.path.relative_to(TESTS).with_suffix("").as_posix()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """In CI everything that a test may need is installed, so a skipped test is a failure there."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome, report.longrepr = "failed", f"skipped in CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """The last line of a run: what was not tested here, and how to have it tested."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and (line := not_tested([report.longrepr[2] for report in reporter.stats.get("skipped", [])])):
        reporter.write_line(line, yellow=True)


def not_tested(reasons: list[str]) -> str:
    """One line that says how many tests were skipped for want of what; empty if none was.

    Args:
        reasons: why each was skipped. Those that `make system` would mend name the Debian package, or root, and `make
            system`.
    """
    lacking, other = Counter[str](), Counter[str]()
    for reason in (reason.removeprefix("Skipped: ") for reason in reasons):
        package = re.search(
            r"(?:needs|Debian packages?) ([a-z][a-z0-9.+ -]*?)(?: have it| has it)? \(`?make system", reason
        )
        (lacking if package else other)[package[1] if package else reason] += 1
    parts = [f"{count} need {package}" for package, count in lacking.most_common()]
    how = " (`make system`, as root on Debian, installs all of it; then run the tests as root)" if parts else ""
    parts = [", ".join(parts) + how] * bool(parts) + [f"{count}: {reason}" for reason, count in other.items()]
    return f"not tested here, {len(reasons)} of the tests: " + "; ".join(parts) if parts else ""


@pytest.fixture(autouse=True)
def own_cluster() -> None:
    """Each test asks SLURM itself: another's may have been another one."""
    run_state.config_in.cache_clear()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    """A real SLURM for a file's tests; files that need another one have a fixture of that name."""
    package = clusters.missing_package()
    if package:
        pytest.skip(f"needs {package} (make system, as root)")
    running = clusters.Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the handles of its own side and of the side that a program sees as its terminal."""
    try:
        ours, theirs = pty.openpty()
    except OSError as error:  # as in a container or chroot with a /dev of its own
        pytest.skip(f"needs a pseudo-terminal ({error}); `mount -t devpts devpts /dev/pts`, as root, brings it")
    yield ours, theirs
    for handle in (ours, theirs):
        try:
            os.close(handle)
        except OSError as error:
            assert error.errno == errno.EBADF  # the test closed it


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds the whole of digits_glt."""
    return made_once(tmp_path_factory, "digits", digits)


@pytest.fixture(scope="session")
def tiny_root(digits_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds a twentieth of digits_glt."""
    return made_once(tmp_path_factory, "tiny", partial(twentieth, digits_root))
