"""Bearer tokens: their names, what each opens, and the text form in which they are kept.

A file or variable holds one token a line, ``name scope[,scope] token``, or a bare token, which
opens everything. Empty lines, and lines that begin with ``# ``, are comments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prerank.core.errors import ConfigError

# The variable's name, and no token.
TOKEN_ENV = "PRERANK_TOKEN"  # nosec B105
RANK, EVENTS, ADMIN = "rank", "events", "admin"
SCOPES = (RANK, EVENTS, ADMIN)
"""Rankings and what they need; reported events; health, and what describes the deployment."""
BARE = "default"
"""Name of a token that has none of its own."""
_FORM = (
    "one token a line is needed, `name scope[,scope] token` with the scopes "
    f"{', '.join(SCOPES)}, or one bare token, for example what `openssl rand -hex 32` prints"
)


@dataclass(frozen=True)
class Token:
    """A token. Its text is a secret: nothing shows it.

    Attributes:
        name: of its holder, for logs.
        scopes: some of ``SCOPES``.
    """

    name: str
    scopes: frozenset[str]
    text: str = field(repr=False)


def read_tokens(text: str, source: str) -> tuple[Token, ...]:
    """The tokens that the ``text`` of ``source`` holds.

    Raises:
        ConfigError: there is none, or one is wrong; the message names the line and repeats no
            token.
    """
    found: list[Token] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0] == "#":
            continue
        found.append(_token(words, f"line {number} of {source}"))
        names = [token.name for token in found]
        if names.count(names[-1]) > 1:
            raise ConfigError(f"line {number} of {source}: there are two tokens {names[-1]!r}.")
        if len({token.text for token in found}) < len(found):
            raise ConfigError(f"line {number} of {source}: it holds the token of another line.")
    if not found:
        raise ConfigError(f"{source} holds no token: {_FORM}.")
    return tuple(found)


def _token(words: Sequence[str], where: str) -> Token:
    if len(words) == 1:
        words = BARE, ",".join(SCOPES), words[0]
    # What stands in the wrong place may be a token: no message repeats a word.
    if len(words) != 3 or not all("!" <= c <= "~" for c in words[2]):
        raise ConfigError(f"{where} holds no token: {_FORM}.")
    name, scopes, text = words
    told = frozenset(scopes.split(","))
    if not told <= set(SCOPES):
        raise ConfigError(f"{where} names an unknown scope: known are {', '.join(SCOPES)}.")
    return Token(name, told, text)
