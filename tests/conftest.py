"""What all tests share: the `tiny` image, built once for each state of its sources, and a printed seed for faults."""

from __future__ import annotations

import os
import pathlib
import random
import signal

import hypothesis
import pytest

from tests import built

hypothesis.settings.register_profile("shared", deadline=None)  # a machine under load makes no test fail
hypothesis.settings.load_profile("shared")
os.environ.setdefault("BOCAGE_DEFAULT_NETWORK", "user")  # no test makes bridges but in a namespace of its own

# Started in the background a shell has us ignore it, and what we start would too: Ctrl-C must work in the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

SEED = os.environ.setdefault("BOCAGE_TEST_SEED", str(random.SystemRandom().randrange(1 << 32)))  # each worker's, too


def pytest_report_header() -> str:
    return f"seed: {SEED} (BOCAGE_TEST_SEED)"


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Chance for one test: another with each run, the same with the same seed."""
    return random.Random(f"{SEED}/{request.node.nodeid}")


@pytest.fixture(scope="session")
def packages_cache() -> pathlib.Path:
    return built.PACKAGES


@pytest.fixture(scope="session")
def tiny_image() -> pathlib.Path:
    return built.tiny_image()


@pytest.fixture(scope="session")
def rescue_image() -> pathlib.Path:
    return built.rescue_image()
