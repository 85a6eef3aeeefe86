"""The generated reference is current, every command and option explains itself, and no page links into the void."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_reference", ROOT / "tools" / "gen_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = _generator()
PAGES = GENERATOR.pages()
COMMANDS = {name: command for name, command, _ in GENERATOR.commands()}


@pytest.mark.parametrize("name", PAGES)
def test_reference_page_is_what_the_code_says(name: str) -> None:
    path = ROOT / "docs" / "reference" / name

    assert path.is_file(), "run `make docs`"
    assert path.read_text() == PAGES[name], "run `make docs`"


@pytest.mark.parametrize("name", COMMANDS)
def test_command_and_each_of_its_options_has_help(name: str) -> None:
    command = COMMANDS[name]

    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]

    assert command.help
    assert silent == []


def test_every_command_of_the_reference_is_reached() -> None:
    assert {"hwc build", "hwc export dir", "hwc models new", "hwc cache gc"} <= set(COMMANDS)


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]

    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in _LINK.findall(page.read_text())
        if not (page.parent / target).exists()
    ]

    assert broken == []
