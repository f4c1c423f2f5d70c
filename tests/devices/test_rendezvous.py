"""Connecting processes: deadlines, signals, and host names that mean this machine alone.

`tests/real/two_machines.sh` connects two network namespaces.
"""

import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.devices import rendezvous
from salsa_cli.errors import SalsaError
from tests.support import commands
from tests.support.worlds import World


@pytest.fixture(autouse=True)
def second_of_two_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "10.0.0.1"}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    for name in ("GLOO_SOCKET_IFNAME", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """The host name `box` has these addresses; the machine has those of loopback only."""
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda name, *rest, **options: [(0, 0, 0, "", (one, 0)) for one in addresses],
    )
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (["127.0.0.1"], "127.0.0.1"),
        (["192.0.2.1", "127.0.1.1"], "127.0.1.1"),  # the first one is of another machine
        (["192.0.2.1"], "no address of this machine"),
        (["2001:db8::1"], "no address of this machine"),
        ([], "no address of this machine"),
    ],
)
def test_a_host_name_of_loopback_needs_an_interface(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], found: str
) -> None:
    resolving(monkeypatch, *addresses)
    with pytest.raises(SalsaError) as caught:
        rendezvous.connect("gloo", timedelta(seconds=1))
    assert str(caught.value) == (
        f"the host name box resolves to {found}, where processes on other machines cannot "
        "connect to this one; set GLOO_SOCKET_IFNAME to the network interface that leads to them "
        "(found here: eth0), or correct the host name in /etc/hosts"
    )


@pytest.mark.parametrize(
    ("variable", "value"), [("GLOO_SOCKET_IFNAME", "eth0"), ("LOCAL_WORLD_SIZE", "2")]
)
def test_a_named_interface_and_a_single_machine_do_without(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    resolving(monkeypatch, "127.0.0.1")
    monkeypatch.setenv(variable, value)
    rendezvous.check_host_name()


def test_a_real_address_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "10.0.0.2")
    monkeypatch.setattr(rendezvous, "_is_here", lambda address: True)
    rendezvous.check_host_name()


def initialising(monkeypatch: pytest.MonkeyPatch, instead: Callable[[], None]) -> None:
    def initialise(backend: str, *, timeout: timedelta) -> None:
        assert (backend, timeout) == ("nccl", timedelta(days=1))
        instead()

    fake: Any = type("Fake", (), {})()
    fake.is_initialized, fake.init_process_group = lambda: False, initialise
    monkeypatch.setattr(rendezvous, "distributed", fake)


def test_processes_that_never_come_are_waited_for_within_a_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    initialising(monkeypatch, lambda: [None, released.wait(30)][0])
    monkeypatch.setattr(rendezvous, "CONNECT", timedelta(seconds=0.12))
    with pytest.raises(SalsaError) as caught:
        rendezvous.connect("nccl", timedelta(days=1))
    released.set()
    assert str(caught.value).startswith(
        "the other processes did not connect in 0.002 min; here MASTER_ADDR=10.0.0.1, "
        "MASTER_PORT=(not set), RANK=1, WORLD_SIZE=2, GLOO_SOCKET_IFNAME=(not set). Expected"
    )


def test_a_failed_connection_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Gloo connectFullMesh failed\nframe #0")

    initialising(monkeypatch, fail)
    with pytest.raises(SalsaError, match=r"processes \(Gloo connectFullMesh failed\); here MAS"):
        rendezvous.connect("nccl", timedelta(days=1))


def test_a_process_that_waits_for_the_others_ends_at_sigterm(world: World, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    process = commands.Command(
        *("ppo", "--ref", world.soup, "--reward", world.rm, "--prompts", world.prompts),
        *("--updates", 1, "--batch-size", 8, "--device", "cpu", "-o", tmp_path / "policy"),
        env=alone,
    )
    while True:  # until it listens for the other
        assert process.poll() is None, process.communicate()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 143
    assert stderr.splitlines()[-1] == "error: stopped by SIGTERM"
