"""Whose a shard of users is where the journal is in Redis: as ``ownership``, between hosts.

An owner has a lease in Redis, with a token of its own, and renews it in the background. Redis
itself looks at the token and at the time in the script that appends, so an owner that was paused
for longer than its lease appends nothing. A lease that ran out is taken from its owner, token and
all, by whoever comes next; an owner that finds its token gone tries to become one again, with
another token, and then reads everything again (``changed``).

The history of a user is written without a token. Such a write is looked at when it is done
(``check``): if the users were another's meanwhile, the other may have been overwritten, and all
owners are told to merge their journals again.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import Any

import orjson
from redis import RedisError

from prerank.core.errors import NotReadyError
from prerank.online.ownership import POLL_S, described, refused, signature
from prerank.online.streams import Streams

LEASE_S = 15.0
RENEWALS = 4
"""In the time of a lease."""
FENCED = "FENCED"
"""What a script answers to an owner that is none."""

PRELUDE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function owner(field)
  local found = redis.call('HGET', KEYS[1], field)
  return found and cjson.decode(found) or {token = '', ['until'] = 0}
end
local function require_owner()
  local mine = owner(ARGV[1])
  return mine['token'] == ARGV[2] and now < mine['until']
end
"""
"""Of scripts for owners. KEYS[1]: owners. ARGV[1] and [2]: the owner's users and its token."""

_TAKE = (
    PRELUDE
    + """
local all, ended = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local same = string.match(all[i], '%-of%-.*') == string.match(ARGV[1], '%-of%-.*')
  if all[i] == ARGV[1] or not same then
    if now < cjson.decode(all[i + 1])['until'] then return {all[i], all[i + 1]} end
    ended[#ended + 1] = all[i]
  end
end
for _, field in ipairs(ended) do redis.call('HDEL', KEYS[1], field) end
local mine = cjson.decode(ARGV[4])
mine['token'], mine['until'] = ARGV[2], now + ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(mine))
return {}
"""
)
_RENEW = (
    PRELUDE
    + """
local mine = owner(ARGV[1])
if mine['token'] ~= ARGV[2] then return false end
mine['until'] = now + ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(mine))
return redis.call('GET', KEYS[2]) or '0'
"""
)
_CHECK = (
    PRELUDE
    + """
if owner(ARGV[1])['token'] == ARGV[2] then return 1 end
redis.call('INCR', KEYS[2])
return 0
"""
)
_RELEASE = (
    PRELUDE
    + """
if owner(ARGV[1])['token'] == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
"""
)

logger = logging.getLogger(__name__)


class Lease:
    """A shard of the users of a home, from construction until ``release``.

    Args:
        streams: of the home.
        home: what a refusal calls the home.
        shard, shards: which users.
        wait_s: how long to wait for an owner that is about to end.
        lease_s: how long an owner that does not renew keeps the users.

    Raises:
        NotReadyError: another writer has these users, or some of them; the message names it.
        RedisError: Redis is away.

    Attributes:
        users: SSS-of-NNN.
        token: of this time as their owner.
        rereads: how often owners were told to merge their journals again, as Redis counts.
        changed: set where everything is to be merged again; whoever does that clears it.
    """

    def __init__(
        self,
        streams: Streams,
        home: str,
        shard: int,
        shards: int,
        wait_s: float,
        lease_s: float = LEASE_S,
    ) -> None:
        self.rereads = b""
        self.users = f"{shard:03d}-of-{shards:03d}"
        self.changed = threading.Event()
        self._home, self._lease_s = home, lease_s
        self._client = streams.client
        self.keys = [streams.key("owners"), streams.key("rereads")]
        self._valid_until = 0.0
        self._closing = threading.Event()
        deadline = time.monotonic() + wait_s
        while owner := self._take():
            if time.monotonic() >= deadline:
                raise refused(home, owner)
            time.sleep(POLL_S)
        self._renew()
        self.changed.clear()
        self._thread = threading.Thread(target=self._follow, name=f"lease-{shard}", daemon=True)
        self._thread.start()

    def lost(self) -> NotReadyError:
        """Why an append was fenced off."""
        found = self._client.hget(self.keys[0], self.users)
        owner = orjson.loads(found) if found else {}
        if owner and owner["token"] != self.token:
            return refused(self._home, described(owner, self.users))
        return NotReadyError(
            f"the history writer was away for longer than its lease of {self._lease_s:g} s. "
            "Send the events again."
        )

    def check(self, token: str) -> None:
        """See that the users were the owner's of ``token`` until now, after a write to them.

        Raises:
            NotReadyError: they were not; all owners will merge their journals again.
            RedisError: Redis is away.
        """
        if token == self.token and time.monotonic() < self._valid_until:
            return
        if not self._client.eval(_CHECK, 2, *self.keys, self.users, token):
            raise NotReadyError("the users were another writer's meanwhile: they are merged again")

    def release(self) -> None:
        """Let another writer have the users."""
        self._closing.set()
        self._thread.join()
        try:
            self._client.eval(_RELEASE, 1, self.keys[0], self.users, self.token)
        except RedisError as error:
            logger.warning("the lease of %s ends by itself: %s", self.users, error)

    def _take(self) -> str:
        """Take the shard; who has it, if it cannot be had."""
        self.token = secrets.token_hex(8)
        lease_ms, name = int(1e3 * self._lease_s), orjson.dumps(signature())
        found: list[bytes] = self._client.eval(
            _TAKE, 1, self.keys[0], self.users, self.token, lease_ms, name
        )
        return described(orjson.loads(found[1]), found[0].decode()) if found else ""

    def _renew(self) -> bool:
        # By this clock the lease ends no later than by Redis's, which reads it later.
        now = time.monotonic()
        lease_ms = int(1e3 * self._lease_s)
        rereads: Any = self._client.eval(_RENEW, 2, *self.keys, self.users, self.token, lease_ms)
        if rereads is None:
            return False
        self._valid_until = now + self._lease_s
        if rereads != self.rereads:
            self.rereads = rereads
            self.changed.set()
        return True

    def _follow(self) -> None:
        while not self._closing.wait(self._lease_s / RENEWALS):
            try:
                if not self._renew() and not self._take():
                    logger.warning("the users of %s were lost for a while", self.users)
                    self._renew()
                    # Whoever had them meanwhile may have left something to merge.
                    self.changed.set()
            except (RedisError, OSError) as error:
                logger.warning("the lease of %s is not renewed: %s", self.users, error)
