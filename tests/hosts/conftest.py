"""No test of the hosts depends on what another test left behind; and how many ties they found, at the end of a run."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
import torch

from fastbert_kernels.hosts.registered import REGISTERED
from helpers.pypi import imported

_TIES = "ties, answers"


@pytest.fixture
def count_ties(record_property):
    """Called with how many of how many answers may be others patched, since an uncertainty lies at the Speed."""
    return lambda ties, answers: record_property(_TIES, (int(ties), answers))


def pytest_terminal_summary(terminalreporter):
    ties, answers = Counter(), Counter()
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == _TIES:
                test = report.nodeid.partition("[")[0]
                ties[test] += value[0]
                answers[test] += value[1]
    if answers:
        terminalreporter.section("patched against unpatched: answers with an uncertainty at the Speed")
    for test in answers:
        terminalreporter.line(f"{test}: {ties[test]} of {answers[test]}")


@pytest.fixture(scope="module")
def package_named(tmp_path_factory):
    """Called with the name of a package of PyPI; it is imported until the module's tests are through."""
    with ExitStack() as scope:
        yield lambda name: scope.enter_context(imported(name, tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which configurations of the packages' models are written."""
    return tmp_path_factory.mktemp("configurations")


@pytest.fixture(autouse=True)
def no_registrations_left():
    yield
    REGISTERED.clear()


@pytest.fixture(autouse=True)
def distributions_check_their_arguments():
    """Unpatched models refuse NaN through torch.distributions, whose checks torch.compile turns off for a process."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(True)
    yield
    torch.distributions.Distribution.set_default_validate_args(before)
