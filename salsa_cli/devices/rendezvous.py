"""Connects the processes of a run, with a deadline, and so that a signal can interrupt the wait.

PyTorch's own call waits as long as the timeout of collective operations, and Python cannot handle
signals meanwhile. gloo listens at the address of the host name. On many machines that is 127.0.0.1:
no process on another machine can connect to it, and the error does not say why.
"""

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from torch import distributed

from salsa_cli.errors import SalsaError, one_line

CONNECT = timedelta(minutes=10)
"""Longest wait for the other processes; those of other machines may be started by hand."""

_PAUSE = 0.1

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Environment variable with the network interface that gloo listens on."""


def connect(backend: str, timeout: timedelta) -> None:
    """Initialise PyTorch's default process group from the environment variables of its launchers.

    Args:
        backend: `gloo` or `nccl`.
        timeout: of the collective operations later on.

    Raises:
        SalsaError: the processes cannot be connected, or not within `CONNECT`.
    """
    if distributed.is_initialized():
        return
    if backend == "gloo":
        check_host_name()
    failed: list[Exception] = []

    def initialise() -> None:
        try:
            distributed.init_process_group(backend, timeout=timeout)
        except Exception as error:
            failed.append(error)

    # The main thread has to be free to handle signals.
    thread = threading.Thread(target=initialise, daemon=True)
    thread.start()
    deadline = time.monotonic() + CONNECT.total_seconds()
    while thread.is_alive():
        thread.join(_PAUSE)
        if time.monotonic() > deadline:
            minutes = CONNECT.total_seconds() / 60
            raise SalsaError(f"the other processes did not connect in {minutes:g} min; {_advice()}")
    if failed:
        reason = one_line(str(failed[0]).strip().partition("\n")[0])
        raise SalsaError(f"cannot connect to the other processes ({reason}); {_advice()}")


def check_host_name() -> None:
    """Refuse a host name whose address gloo cannot be reached at from other machines.

    Raises:
        SalsaError: it resolves to the loopback interface, or to no address of this machine.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    if local == int(os.environ["WORLD_SIZE"]) or INTERFACE in os.environ:
        return
    address = _gloo_address()
    if address is not None and not ipaddress.ip_address(address).is_loopback:
        return
    found = "no address of this machine" if address is None else address
    raise SalsaError(
        f"the host name {socket.gethostname()} resolves to {found}, where processes on other "
        f"machines cannot connect to this one; set {INTERFACE} to the network interface that "
        f"leads to them ({_interfaces()}), or correct the host name in /etc/hosts"
    )


def _gloo_address() -> str | None:
    """The first address of the host name that this machine has, as gloo chooses it."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    return next((str(place[0]) for *_, place in found if _is_here(str(place[0]))), None)


def _is_here(address: str) -> bool:
    """Whether a socket of this machine can listen at an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:  # a machine without IPv6 has no such sockets at all
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind((address, 0))
    except OSError:
        return False
    return True


def _interfaces() -> str:
    names = [name for _, name in socket.if_nameindex() if not name.startswith("lo")]
    return f"found here: {', '.join(names)}" if names else "there is none but loopback here"


def _advice() -> str:
    """What connects the processes, as this one knows it."""
    found = ", ".join(f"{name}={value}" for name, value in _variables())
    return (
        f"here {found}. Expected one command per machine with the same address and port, at which "
        "the other machines can reach that of rank 0"
    )


def _variables() -> Iterator[tuple[str, str]]:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", INTERFACE):
        yield name, os.environ.get(name, "(not set)")
