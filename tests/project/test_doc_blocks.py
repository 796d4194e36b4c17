"""Every block that a reader would type or copy is run by a test, or says why not."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
import yaml

from adaptive_lora.cli.app import app
from adaptive_lora.settings_loading import load_settings
from tests.project.doc_blocks import LANGUAGES, PAGES, ROOT, Block, blocks

BLOCKS = [block for page in PAGES for block in blocks(page)]


def test_the_pages_have_blocks() -> None:
    assert len(BLOCKS) > 60
    assert {block.page for block in BLOCKS} >= {"README.md", "docs/how-to/deploy.md"}
    fences = sum(len(re.findall(r"^ *```", (ROOT / page).read_text(), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * len(BLOCKS), "a fence that is not understood hides a block"


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_fenced_blocks(page: str) -> None:
    """Where the tests below see them. Lists of `make` targets may be indented: another test knows these."""
    text = re.sub(r"^( *)```.*?^\1```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    command = r"^ {4,}((?:\$ |export |[A-Z_]+=\S+ |adaptive-lora |\.venv/|curl |python3? |pip |kubectl ).*)$"
    assert re.findall(command, text, re.MULTILINE) == []


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_says_who_runs_it_or_why_nobody_does(block: Block) -> None:
    assert block.language in LANGUAGES | {"text", "mermaid"}, "a block needs a language"
    if block.language in ("text", "mermaid") or block.is_settings:
        return
    assert block.run_by or block.not_run, (
        "neither `<!-- run by: ... -->` nor `<!-- not run: ... -->` above it"
    )
    for named in block.run_by.split(", ") if block.run_by else ():
        path, _, test = named.partition("::")
        source = (ROOT / path).read_text()
        assert re.search(rf"^(?:async )?def {test}\(", source, re.MULTILINE), named
        assert Path(block.page).stem in source, f"{path} does not read {block.page}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.is_settings], ids=str)
def test_settings_load(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(block.text)
    load_settings(path, environ={"WORKER_API_KEY": "a" * 64})  # a secret, which no page's file has


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_yaml_is_yaml(block: Block) -> None:
    assert list(yaml.safe_load_all(block.text))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where each `adaptive-lora ...` of a block stands, and its words as the shell sees them."""
    for block in BLOCKS:
        if block.language not in ("bash", "sh", "console"):
            continue
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue  # a here-document, or quotes over several lines
            for at, word in enumerate(words):
                if Path(word).name == "adaptive-lora" and (at == 0 or words[at - 1] not in ("-t", "--name")):
                    rest = words[at + 1 :]
                    ends = [i for i, each in enumerate(rest) if re.match(r"[&|;>]", each)]
                    yield str(block), [each.rstrip(";") for each in rest[: min(ends, default=len(rest))]]
                    break


COMMANDS = [each for each in commands() if each[1] and re.fullmatch(r"[a-z]+", each[1][0])]


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[f"{w}-{' '.join(c[:2])}" for w, c in COMMANDS])
def test_commands_are_understood(where: str, words: list[str]) -> None:
    """Also of blocks that are not run: command, options, and no argument too many."""
    command: click.Command = typer.main.get_command(app)
    context = command.make_context("adaptive-lora", words, resilient_parsing=True)
    while isinstance(command, click.Group):
        name, command_found, words = command.resolve_command(context, words)
        assert command_found is not None, where
        command = command_found
        context = click.Context(command, parent=context, info_name=name)
    command.make_parser(context).parse_args(words)
