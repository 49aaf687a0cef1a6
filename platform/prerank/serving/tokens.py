"""The tokens of a deployment, which may change while it runs."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
import time
from collections.abc import Callable

from prerank.core.errors import ConfigError
from prerank.core.tokens import TOKEN_ENV, Token, read_tokens

LOOK_S = 1.0
FOR_OTHERS = stat.S_IRWXO | stat.S_IWGRP
"""No other user may open the file; its group may read it, as Kubernetes has it."""

Stamp = tuple[int, ...]

logger = logging.getLogger(__name__)


class Tokens:
    """Those of a file, which is read again when it changes; else those of PRERANK_TOKEN.

    A changed file that cannot be used leaves the tokens of before, and ``problem`` says why. It is
    looked at once a second at most, by whoever asks; so one thread should.

    Args:
        file: path; None for the variable.
        clock: seconds that only grow.

    Raises:
        ConfigError: the file cannot be read, is open to others, or holds no token; or the variable
            holds none.
    """

    def __init__(self, file: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._clock = file, clock
        self._looked, self._stamp = clock(), _stamp(file)
        self._held = self._read()
        self.problem = ""

    @property
    def asked(self) -> bool:
        """Whether callers must send a token."""
        return bool(self._held)

    def holder(self, given: str) -> Token | None:
        """The token whose text is ``given``; compared with each in the same time."""
        self._look()
        sent, found = _digest(given), None
        for digest, token in self._held:
            if hmac.compare_digest(digest, sent):
                found = token
        return found

    def _look(self) -> None:
        if self._file is None or self._clock() < self._looked + LOOK_S:
            return
        self._looked = self._clock()
        if (stamp := _stamp(self._file)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._held = self._read()
        except ConfigError as error:
            self.problem = f"{error} The tokens of before go on."
            logger.error("tokens were not read again: %s", self.problem)
        else:
            self.problem = ""
            names = ", ".join(f"{t.name} ({','.join(sorted(t.scopes))})" for _, t in self._held)
            logger.info("tokens were read again: %s", names)

    def _read(self) -> list[tuple[bytes, Token]]:
        if self._file is None:
            text, source = os.environ.get(TOKEN_ENV), TOKEN_ENV
        else:
            text, source = _content(self._file), f"`token_file` {self._file}"
        tokens = () if text is None else read_tokens(text, source)
        return [(_digest(token.text), token) for token in tokens]


def _digest(text: str) -> bytes:
    # Of one length, so that not even the length of a token shows in the time of a comparison.
    return hashlib.sha256(text.encode()).digest()


def _stamp(file: str | None) -> Stamp:
    """Tells one content and mode of a file from another; empty where there is none."""
    try:
        found = os.stat(file) if file is not None else None
    except OSError:
        found = None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if found else ()


def _content(file: str) -> str:
    """The text of a file that is closed to other users."""
    try:
        with open(file, encoding="utf-8") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if mode & FOR_OTHERS:
                raise ConfigError(
                    f"`token_file` {file} is open to other users (mode {stat.S_IMODE(mode):04o}): "
                    f"`chmod 600 {file}`, and replace its tokens if others may have read it."
                )
            return opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`token_file` {file} cannot be read: {error}") from None
