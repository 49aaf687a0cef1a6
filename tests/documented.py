"""The blocks of commands in README and docs: those that tests run, and why the others are not run.

A block that a test runs has `<!-- ci: NAME -->` above it, and the test gets its text by
``block(NAME)``. Any other says `# not in CI: ` and one of ``REASONS``, where its readers see it.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from prerank import cli

ROOT = Path(__file__).resolve().parents[1]
# A decision tells what was true when it was made.
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
    if page.parent.name != "decisions"
]
REASONS = (
    "needs Docker",
    "needs Kubernetes",
    "needs your cluster",
    "needs your log",
    "needs live traffic",
    "takes minutes",
)
BLOCK = re.compile(
    r"^(?:<!-- ci: (?P<name>[a-z-]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"# not in CI: (.*)$", re.MULTILINE)
NEXT = re.compile(r"\s*(?:&&|\|\||[;|&])\s*")
REMARK = re.compile(r"(^|\s)#\s.*$|\s{3,}\(.*\)$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: its page and line.
        name: by which a test gets it; empty where none does.
        language: bash, python, …; empty for output.
        code: its text.
    """

    place: str
    name: str
    language: str
    code: str


def blocks() -> list[Block]:
    """Every fenced block of every page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
            name, language, code = match.group("name", "language", "code")
            found.append(Block(place, name or "", language, code))
    return found


def block(name: str, **given: object) -> str:
    """A block as it stands; ``given`` puts values in the place of words, such as ``E="log"``."""
    (text,) = {b.code for b in blocks() if b.name == name}
    for word, value in given.items():
        text, count = re.subn(rf"(?<![\w$/-]){word}\b", str(value), text)
        assert count, f"`{name}` has no {word}"
    return text


def commands(code: str) -> list[str]:
    """The commands of some lines, without remarks."""
    lines = code.replace("\\\n", " ").splitlines()
    return [part.strip() for line in lines for part in NEXT.split(REMARK.sub("", line))]


def words(name: str, **given: object) -> list[list[str]]:
    """What each command of a block gives to `prerank`, which all of them call."""
    found = [shlex.split(command) for command in commands(block(name, **given)) if command]
    own = [command for command in found if command[0] != "source"]
    assert all(command[0] == "prerank" for command in own), own
    return [command[1:] for command in own]


def run_block(name: str, **given: object) -> None:
    """Run the commands of a block in this process."""
    for command in words(name, **given):
        cli.main(command)
