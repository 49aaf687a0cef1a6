"""Work that is killed at one of its changes of files, as a power cut would end it.

Python tells an audit hook of every change before it is made. The work runs in a child that is
forked from this process, and so needs no start of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}
NEVER = 1 << 40


def changes_of(work: Callable[[], object]) -> int:
    """How many changes of files ``work`` makes, which a child does to its end."""
    told, tells = os.pipe()
    child = os.fork()
    if not child:
        _run(work, NEVER, tells)
    os.close(tells)
    with os.fdopen(told) as lines:
        text = lines.read()
    assert os.waitpid(child, 0)[1] == 0, "the work failed where nobody killed it"
    return int(text)


def killed(work: Callable[[], object], at: int) -> bool:
    """Do ``work`` in a child that is killed at its change number ``at``; False: it came to none."""
    child = os.fork()
    if not child:
        _run(work, at)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WIFSIGNALED(status), "the work failed before it was killed"
    return status != 0


def _run(work: Callable[[], object], at: int, tells: int | None = None) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        opened = event == "open" and str(arguments[1]) not in ("None", "r", "rb")
        if opened or event in CHANGES:
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    try:
        work()
        if tells is not None:
            os.write(tells, str(seen).encode())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def killed_after(work: Callable[[], object], seconds: float) -> bool:
    """Do ``work`` in a child that is killed after some time; False: it had ended by then.

    For work whose changes Python does not see, such as a database's.
    """
    child = os.fork()
    if not child:
        _run(work, NEVER)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, "the work failed before it was killed"
            return False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True
