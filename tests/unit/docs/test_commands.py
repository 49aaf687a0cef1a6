"""The commands that the documentation shows exist: verbs, options, files and targets.

Those in blocks are run by a test, or say why not; those within a line are looked at here alone.
"""

from __future__ import annotations

import argparse
import functools
import re
import shlex
from pathlib import Path

import pytest
from tests.documented import BLOCK, NOT_RUN, PAGES, REASONS, ROOT, Block, blocks, commands

from prerank.cli import parser

INLINE = re.compile(r"`([^`\n]+)`")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
TOOLS = (
    r"prerank|make|python|pip|ray|serve|mlflow|feast|curl|docker|kubectl|apt-get|redis-cli|kill"
    r"|export|source|eval|\.venv/bin/\w+"
)
# Not an error message, "prerank gate: …".
COMMAND = re.compile(rf"^(?!prerank \S+: )(\$ )?({TOOLS}) ", re.MULTILINE)
RUN = {
    name
    for path in (ROOT / "tests").rglob("*.py")
    for name in re.findall(r"\b(?:block|words|run_block)\(\"([a-z-]+)\"", path.read_text())
}
the_parser = functools.cache(parser)


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
            the_parser().parse_args(words)
        except SystemExit as end:
            return f"{command}: wrong usage" if end.code else ""
        return ""
    (verbs,) = (a for a in the_parser()._actions if isinstance(a, argparse._SubParsersAction))
    # "`prerank ingest`, `prerank features` …" and "`prerank simulate --preset` tiny or demo".
    if (verb := words[0].rstrip(",")) not in verbs.choices:
        return f"{command}: no such verb"
    known = verbs.choices[verb]._option_string_actions
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
    return f"{command}: no such option: {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_one(page: Path) -> None:
    text = page.read_text()
    whole = [c for match in BLOCK.finditer(text) for c in commands(match["code"])]
    inline = [c for code in INLINE.findall(BLOCK.sub("", text)) for c in commands(code)]
    found = [mistake(c, True) for c in whole] + [mistake(c, False) for c in inline]
    assert [one for one in found if one] == []


def test_every_block_of_commands_is_run_or_says_why_not() -> None:
    found = [f"{block.place}: {wrong}" for block in blocks() if (wrong := unsaid(block))]
    assert found == []


def unsaid(block: Block) -> str:
    """What a block lacks that is neither run by a test nor says why."""
    if block.language not in ("bash", "python"):
        return "commands are ```bash" if COMMAND.search(block.code) else ""
    reasons = NOT_RUN.findall(block.code)
    if bool(block.name) == bool(reasons):
        return "give it `<!-- ci: NAME -->`, or `# not in CI: REASON`"
    if unknown := {*reasons} - {*REASONS}:
        return f"{unknown} is none of {REASONS}"
    return "" if not block.name or block.name in RUN else f"no test runs `{block.name}`"


@pytest.mark.parametrize(
    ("language", "name", "remark", "told"),
    [
        ("bash", "cluster", "", ""),
        ("bash", "", "# not in CI: takes minutes", ""),
        ("bash", "", "", "give it"),
        ("bash", "", "# not in CI: dull", "is none of"),
        ("bash", "nosuch", "", "no test runs"),
        ("", "", "", "commands are"),
    ],
)
def test_a_block_without_a_mark_is_found(language: str, name: str, remark: str, told: str) -> None:
    found = unsaid(Block("page", name, language, f"prerank check\n{remark}\n"))
    assert told in found if told else not found


def test_a_mistake_is_found() -> None:
    assert mistake("prerank run --events E", True)
    assert not mistake("prerank run --events E", False)
    assert mistake("prerank run --no-such-option", False)
    assert mistake("prerank nosuchverb", False)
    assert mistake("python benchmarks/nosuch.py", True)
    assert mistake("make nosuch", False)
