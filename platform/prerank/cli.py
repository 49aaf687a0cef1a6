"""The `prerank` command line. Each verb is a stage of the pipeline; `prerank run` does them all."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time

from prerank.commands.arguments import OPTIONS
from prerank.commands.verbs import VERBS
from prerank.core.errors import PrerankError, StateError, is_full
from prerank.core.home import ENV
from prerank.core.quiet import DEBUG_ENV, hush
from prerank.core.redact import redact

DESCRIPTION = """\
Pre-ranking with engagement cross features: from an event log to a live deployment.

  see it work       prerank demo
  look at a log     prerank inspect --events E --items I --out mapping.yaml
  the whole way     prerank run --events E --items I [--mapping M] --workdir W
  stage by stage    prerank ingest, features, training-set, materialise, train
  what a part pays  prerank ablate (broken off and run again, it goes on)
  what a log pays   prerank curve (likewise)
  what pays more    prerank tune (likewise)
  what is alike     prerank graph, embed
  each day          prerank update, or prerank retrain
  make it live      prerank gate, promote; and back: prerank rollback
  what is live      prerank online-report
  a user leaves     prerank forget
  on a cluster      eval "$(prerank env)"; see the README
  once deployed     prerank parity
"""
EPILOG = f"""\
`prerank VERB --help` says what a verb does, with an example and what to run next.
State lives under {ENV} (or --workdir), an absolute path.
{DEBUG_ENV}=1 shows what the libraries below say, too.
Exit codes: 0 done; 2 configuration; 3 data; 4 a step is missing; 5 not ready; 1 anything else.
"""

_formatter = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=22, width=96)


def parser() -> argparse.ArgumentParser:
    """The command line, frozen by a test."""
    top = argparse.ArgumentParser(
        prog="prerank", description=DESCRIPTION, epilog=EPILOG, formatter_class=_formatter
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB [OPTIONS]", title="verbs")

    for one in VERBS:
        own = verbs.add_parser(
            one.name,
            help=one.purpose,
            description=f"{one.purpose[0].upper()}{one.purpose[1:]}.",
            epilog=f"example:\n  {one.example}\n\nnext:\n  {one.then}",
            formatter_class=_formatter,
        )
        own.set_defaults(function=one.function)
        for option in one.options:
            own.add_argument(f"--{option}", **(OPTIONS[option] | one.changed.get(option, {})))
    return top


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `prerank` console script."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    args = parser().parse_args(argv)
    hush()
    began = time.perf_counter()
    try:
        done = args.function(args)
    except PrerankError as error:
        print(f"prerank {args.verb}: {redact(str(error))}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if not is_full(error):
            raise
        told = "What was there before stays. Make room, and run the command again."
        print(f"prerank {args.verb}: the disk is full ({error}). {told}", file=sys.stderr)
        raise SystemExit(StateError.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if done is not None:
        print(f"\n{done.text(time.perf_counter() - began)}")
