"""The Markdown pages of the project, and the blocks of code in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
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
        """The words of each command line, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        found = [shlex.split(_COMMENT.sub("", line)) for line in lines]
        return [words for words in found if words]


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
