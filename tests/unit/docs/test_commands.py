"""The commands that the documentation shows exist: verbs, options, files and targets."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from prerank.cli import parser

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
# A decision tells what was true when it was made.
PAGES = [page for page in PAGES if page.parent.name != "decisions"]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
NEXT = re.compile(r"\s*(?:&&|\|\||[;|&])\s*")
REMARK = re.compile(r"(^|\s)#\s.*$|\s{3,}\(.*\)$")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def split(code: str) -> list[str]:
    """The commands of some lines, without remarks."""
    lines = code.replace("\\\n", " ").splitlines()
    return [part.strip() for line in lines for part in NEXT.split(REMARK.sub("", line))]


def mistake(command: str, whole: bool) -> str:
    """What is wrong with a command, if it is one of ours; ``whole``: nothing was left out of it."""
    # Not an error message, "prerank gate: …".
    if re.match(r"prerank [a-z][a-z-]*,?(\s|$)", command):
        return wrong_usage(command, whole)
    if script := re.match(r"python ((?:benchmarks|platform)/\w+\.py)", command):
        return "" if (ROOT / script[1]).exists() else f"{command}: no such file"
    if target := re.match(r"make ([a-z-]+)$", command):
        return "" if target[1] in TARGETS else f"{command}: no such target"
    return ""


def wrong_usage(command: str, whole: bool) -> str:
    """Why `prerank` would refuse a command; ``[…]`` is what may be left out."""
    # The last command of `bash -c '…; …'` has the quote that ends them all.
    bare = command.removesuffix("'") if command.count("'") == 1 else command
    words = shlex.split(re.sub(r"[\[\]…]", " ", bare))[1:]
    if whole:
        try:
            parser().parse_args(words)
        except SystemExit as end:
            return f"{command}: wrong usage" if end.code else ""
        return ""
    (verbs,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    # "`prerank ingest`, `prerank features` …" and "`prerank simulate --preset` tiny or demo".
    if (verb := words[0].rstrip(",")) not in verbs.choices:
        return f"{command}: no such verb"
    known = verbs.choices[verb]._option_string_actions
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
    return f"{command}: no such option: {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_one(page: Path) -> None:
    text = page.read_text()
    blocks = [c for block in BLOCK.findall(text) for c in split(block)]
    inline = [c for code in INLINE.findall(BLOCK.sub("", text)) for c in split(code)]
    found = [mistake(c, True) for c in blocks] + [mistake(c, False) for c in inline]
    assert [one for one in found if one] == []


def test_a_mistake_is_found() -> None:
    assert mistake("prerank run --events E", True)
    assert not mistake("prerank run --events E", False)
    assert mistake("prerank run --no-such-option", False)
    assert mistake("prerank nosuchverb", False)
    assert mistake("python benchmarks/nosuch.py", True)
    assert mistake("make nosuch", False)
