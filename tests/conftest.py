"""What every test gets: one thread, fixed seeds, no network, and an honest count of the tests on real data."""

from __future__ import annotations

import os

# Before anything imports them: no test may reach the Hub behind our back, nor open a window.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

DATA_VARIABLE = "LASHLEY_DATA"

# The same examples on every machine and every run: a failure in CI is a failure at home. No deadline, because the
# first example of a layer type pays for the imports and the kernels' warm-up.
hypothesis.settings.register_profile("lashley", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("lashley")


class DataTests:
    """Skips the tests marked `data` where there is no data; where there is, no skip goes unnoticed.

    With LASHLEY_DATA set, a run in which any data test was skipped ends with a failure. So does one in which a whole
    module was skipped while it was being imported, because its data tests cannot be counted.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        self.collected: set[str] = set()
        self.ran: list[str] = []
        self.skipped: list[str] = []
        self.skipped_modules: list[str] = []

    @property
    def failed(self) -> bool:
        return self.folder is not None and bool(self.skipped or self.skipped_modules)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skipped_modules.append(report.nodeid)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if item.get_closest_marker("data") is None:
                continue
            self.collected.add(item.nodeid)
            if self.folder is None:
                item.add_marker(pytest.mark.skip(reason=f"{DATA_VARIABLE} is not set"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid not in self.collected:
            return
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped.append(report.nodeid)
        elif report.when == "call":
            self.ran.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.failed and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_line(f"data tests: {len(self.ran)} ran, {len(self.skipped)} skipped")
        if self.failed:
            terminalreporter.write_line(f"{DATA_VARIABLE} is set, so these must run:", red=True)
            for name in [*self.skipped, *self.skipped_modules]:
                terminalreporter.write_line(f"  {name}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    folder = os.environ.get(DATA_VARIABLE) or None
    if folder is not None and not Path(folder).is_dir():
        raise pytest.UsageError(f"{DATA_VARIABLE} should name the folder of real data; {folder!r} is not a folder")
    config.pluginmanager.register(DataTests(folder), "lashley-data-tests")


@pytest.fixture(scope="session")
def data_folder(request: pytest.FixtureRequest) -> Path:
    """The folder of real data. Only for tests marked `data`: an unmarked one fails here where the data is missing."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        pytest.fail(f"a test without the marker `data` asked for the folder that {DATA_VARIABLE} names")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in one order on every machine; with matrices this small it is the fastest setting as well."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same seeds and the default dtype, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
