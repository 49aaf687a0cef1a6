"""Connections to Redis for reads that must end by a time.

redis-py opens a connection (address, TLS, log-in, database) and knows one time-out per wait, so
what it does may take several. Here a read ends at its deadline, whatever it waits for:

- Commands and replies go over a connection's socket, whose time-out is what is left, set anew
  before each wait.
- A connection is opened by a thread, since that has stages with a time-out each. The caller waits
  for it until the deadline. One that is there too late is kept for the next caller.
- A connection whose read did not end is closed: the reply that is still to come would be taken for
  the next one's.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hiredis import PushNotification, Reader, ReplyError
from redis import ConnectionPool, RedisError, ResponseError
from redis.connection import Connection

OPENERS = 4
"""Threads that open connections. One is enough while the server answers."""
CHUNK = 1 << 16


class Connections:
    """Idle connections to the server of ``pool``, each lent to one caller at a time.

    Safe to share between threads.

    Args:
        pool: says how connections are opened, and how often a read without a deadline is tried.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        # A deque's append and pop are atomic.
        self._idle: deque[Connection] = deque()
        self._openers = ThreadPoolExecutor(OPENERS, thread_name_prefix="redis-connect")
        self._retry = copy.deepcopy(pool.connection_kwargs["retry"])
        self._retry.update_supported_errors([OSError])

    def ask(self, commands: bytes, count: int, deadline: float | None = None) -> list[Any]:
        """The replies to ``count`` packed commands, sent at once.

        Args:
            commands: in Redis's protocol.
            count: how many they are.
            deadline: ``time.monotonic()`` at which the read is given up; None leaves each wait the
                time-out with which connections are opened.

        Raises:
            TimeoutError: the deadline has passed.
            OSError, RedisError: the server is away, or refuses a command.
        """
        if deadline is not None:
            return self._ask(commands, count, deadline)
        return self._retry.call_with_retry(lambda: self._ask(commands, count, None), lambda _: None)

    def _ask(self, commands: bytes, count: int, deadline: float | None) -> list[Any]:
        connection = self._lent(deadline)
        try:
            replies = _exchange(connection, commands, count, deadline)
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)
        return replies

    def _lent(self, deadline: float | None) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._opened(deadline)
            if _is_quiet(connection):
                return connection
            connection.disconnect()

    def _opened(self, deadline: float | None) -> Connection:
        opening = self._openers.submit(self._open)
        try:
            return opening.result(None if deadline is None else _left(deadline))
        except TimeoutError:
            if not opening.cancel():
                opening.add_done_callback(self._keep)
            raise

    def _open(self) -> Connection:
        connection: Connection = self._pool.connection_class(**self._pool.connection_kwargs)
        connection.connect()
        return connection

    def _keep(self, opening: Future[Connection]) -> None:
        if opening.exception() is None:
            self._idle.append(opening.result())


def _exchange(
    connection: Connection, commands: bytes, count: int, deadline: float | None
) -> list[Any]:
    sock: Any = connection._sock
    reader, replies = Reader(), list[Any]()

    def limit() -> None:
        sock.settimeout(connection.socket_timeout if deadline is None else _left(deadline))

    limit()
    sock.sendall(commands)
    while len(replies) < count:
        # False: what was received so far is no whole reply.
        if (reply := reader.gets()) is False:
            limit()
            received = sock.recv(CHUNK)
            if not received:
                raise ConnectionError("Redis closed the connection")
            reader.feed(received)
        elif isinstance(reply, ReplyError):
            raise ResponseError(str(reply))
        elif not isinstance(reply, PushNotification):
            replies.append(reply)
    return replies


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the online store did not answer in time")
    return left


def _is_quiet(connection: Connection) -> bool:
    """Whether an idle connection is open, as far as is known, and has nothing to say."""
    try:
        return not connection.can_read(0)
    except (OSError, RedisError):
        return False
