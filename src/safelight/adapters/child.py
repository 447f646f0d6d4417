"""Programs of ours that work for the gateway in a process of their own, on a socket at 0.

For what would keep handing the interpreter to and fro in a thread. Such a program ends with its connection, so it
outlives no gateway; it imports little, so that it starts quickly.
"""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

_READ_BYTES = 1024 * 1024

Join = Callable[[], object]
"""Waits for the end of who serves; it comes soon after the connection is closed."""


def start_process(module: str, connection: socket.socket, *arguments: str, keep: Sequence[int] = ()) -> Join:
    """Start a module as a process that serves the connection. A session of its own keeps the terminal's signals away.

    `keep` are descriptors that it is to hold, too. Raises `OSError`.
    """
    with connection:
        child = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", module, *arguments],
            stdin=connection.fileno(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=keep,
        )
    return child.wait


def own_connection() -> socket.socket:
    """In such a process: who it works for, who alone says when to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return socket.socket(fileno=0)


def answer(gateway: socket.socket, take: Callable[[memoryview], tuple[bytes, int]], *, greeting: bytes = b"") -> None:
    """In such a process: do what is asked for until the other side is gone; what has come whole by then is done all the same.

    `take` gets what has come, and gives the answers to all that is whole and the place where that ends. It keeps no view.
    """
    waiting = bytearray()
    try:
        gateway.sendall(greeting)
        while received := gateway.recv(_READ_BYTES):
            waiting += received
            with memoryview(waiting) as view:
                answers, end = take(view)
            gateway.sendall(answers)
            del waiting[:end]
    except ConnectionError:  # nobody is there to be told
        pass
