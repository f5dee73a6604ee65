"""The Markdown pages of the project, and the blocks of code in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from gam_ray.cli import app

MAIN: Any = typer.main.get_command(app)
ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(^|\s)#.*")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: Its page, from the project's root.
        line: Of the page, where it begins.
        language: As the fence says it; empty for commands.
        text: What is in it.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each command, without comments; those of one line that go together apart."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines for words in _commands(_COMMENT.sub("", line))]


def _commands(line: str) -> list[list[str]]:
    """The commands of a line; none of one that is a small program of the shell."""
    if line.startswith("("):
        return []
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;"):
            found.append([])
        elif not set(word) <= set("<>"):
            found[-1].append(word)
    return [words for words in found if words]


def of_gam_ray(words: list[str]) -> list[str]:
    """What gam-ray is given in a command, by itself or inside a container; empty where it is not.

    An image or a secret may have its name as well: a command of it has to follow, or an option.
    """
    for place, word in enumerate(words[:-1]):
        following = words[place + 1]
        is_told = following in MAIN.commands or (place == 0 and following.startswith("-"))
        if word.removeprefix(".venv/bin/") == "gam-ray" and is_told:
            return words[place + 1 :]
    return []


def parse_gam_ray(words: list[str]) -> None:
    """Have the command line read what gam-ray is given, and do nothing.

    Raises:
        click.UsageError: If it would not take that.
    """
    if words[0].startswith("-"):
        MAIN.make_parser(MAIN.context_class(MAIN)).parse_args(list(words))
    else:
        MAIN.commands[words[0]].make_context(words[0], words[1:])


def blocks(*languages: str) -> list[Block]:
    """All blocks of these languages on all pages."""
    return [block for page in PAGES for block in _blocks(page) if block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        indent, language, content = found.groups()
        lines = [line.removeprefix(indent) for line in content.splitlines()]
        line = text[: found.start()].count("\n") + 1
        yield Block(str(page.relative_to(ROOT)), line, language, "\n".join(lines) + "\n")
