"""Versions in a run's record: those that are installed, without importing anything."""

import platform
from importlib import metadata

import pytest

from salsa_cli import VERSION
from salsa_cli.runs import versions


def test_versions_are_those_of_the_packages() -> None:
    import torch

    found = versions.versions()
    assert (found["salsa"], found["python"]) == (VERSION, platform.python_version())
    assert found["torch"] == metadata.version("torch") == torch.__version__


def test_a_package_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_FOUNDATIONS", ("no-such-package",))
    assert versions.versions()["no-such-package"] == "not installed"
