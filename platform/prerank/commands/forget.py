"""Users who asked to be forgotten."""

from __future__ import annotations

import argparse

from prerank import preflight
from prerank.commands.options import home_of, next_step
from prerank.core.errors import ConfigError
from prerank.summaries import Summary, count


def forget(args: argparse.Namespace) -> Summary:
    """Take users out of everything that the home holds."""
    from prerank.forget import forget

    if bool(args.user) == bool(args.users):
        raise ConfigError("give either --user with an id, or --users with a file of ids.")
    preflight.check_inputs({"users": args.users})
    users = {args.user} if args.user else set(args.users.read_text("utf-8").splitlines()) - {""}
    home = home_of(args)
    preflight.check_space(home)
    preflight.check_services(home, online=True)
    receipt = forget(home, users)
    print(receipt.text())
    steps = next_step(args, "training-set", "then prerank train; the receipt says what remains")
    return Summary(f"{home.root}: {count(len(users), 'user')}", str(receipt.path), steps)
