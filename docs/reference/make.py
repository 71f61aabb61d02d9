"""Writes the pages that are made of the code: commands, problem keys, families, and specs/properties.md.

``python docs/reference/make.py`` writes them; with ``--check`` it writes nothing and fails where one is not current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cyclopts import App

from schedverify.cli.app import application
from schedverify.cli.usage import arguments_of, usage_line
from schedverify.core.problem.keys import KEYS, TABLES, Key
from schedverify.formats.models.model_keys import CLUSTER_KEYS, CLUSTER_TABLES, MODEL_KEYS, MODEL_TABLES
from schedverify.generators import families
from schedverify.verifier.rule_pages import all_pages

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOTE = "<!-- made by docs/reference/make.py from {}; change it there -->\n\n"
TAKES = {
    "int": "number",
    "float": "number",
    "str": "text",
    "bool": "flag",
    "list": "one or more",
    "tuple": "one or more",
}


def pages() -> dict[Path, str]:
    """Return the text of every page by its file."""
    return {
        ROOT / "specs" / "properties.md": all_pages(),
        HERE / "commands.md": NOTE.format("the commands' signatures") + commands(),
        HERE / "problem-keys.md": NOTE.format("schedverify/core/problem/keys.py") + problem_keys(),
        HERE / "model-keys.md": NOTE.format("schedverify/formats/models/model_keys.py") + model_keys(),
        HERE / "cluster-keys.md": NOTE.format("schedverify/formats/models/model_keys.py") + cluster_keys(),
        HERE / "families.md": NOTE.format("schedverify/generators/registry.py") + family_pages(),
    }


ABOUT = """\
`schedverify help` or `--help` lists the commands, `schedverify COMMAND --help` the options of one. Wrong usage is told
with the usage line and the nearest name, exit code 2. `schedverify --install-completion` writes what completes
commands, options and their values by the tab key, and says which file; `--show-completion` prints it. Both take `bash`,
`zsh` or `fish`, by default the shell of `SHELL`.

Files that a command will write are looked at before it works: the form that the name shows, the folder, whether there
is room, and that none of them is a file that it reads. The answer is printed before it is written. A file is written
whole or not at all; where that fails in the end, what it should hold is printed too, and the exit code is 2."""


def commands() -> str:
    """Return a section for every command, in the order in which they are registered."""
    app = application()
    names = [name for name in app if not name.startswith("-")]
    return "\n\n".join(["# Commands", ABOUT, *(command(app, name) for name in names)]) + "\n"


def command(app: App, name: str) -> str:
    """Return the section of one command: what it does, and a row for each argument and option."""
    arguments = arguments_of(app, name)
    positional = [a.names[0].removeprefix("--").upper() for a in arguments if a.required]
    rows = []
    for argument in arguments:
        choices = argument.get_choices()
        hint = str(getattr(argument.hint, "__name__", argument.hint)).partition(" |")[0]
        default = argument.field_info.default
        rows.append(
            (
                positional[len(rows)] if argument.required else ", ".join(f"`{n}`" for n in reversed(argument.names)),
                ", ".join(f"`{choice}`" for choice in choices) if choices else TAKES[hint],
                "" if argument.required or default is None or default is False else f"`{default}`",
                (argument.parameter.help or "").rstrip("."),
            )
        )
    table = "\n".join(markdown_table(("argument", "takes", "default", "meaning"), rows)) if rows else ""
    return "\n\n".join([f"## {name}", app[name].help, f"```text\n{usage_line(app, name)}\n```", table]).rstrip()


def problem_keys() -> str:
    """Return a table of keys for every table of a problem file."""
    return key_tables("Keys of a problem file", KEYS, ("", *TABLES, "boundary"))


def model_keys() -> str:
    """Return a table of keys for every table of a model file."""
    return key_tables("Keys of a model file", MODEL_KEYS, ("", "layer", "tied", *MODEL_TABLES))


def cluster_keys() -> str:
    """Return a table of keys for every table of a cluster file."""
    return key_tables("Keys of a cluster file", CLUSTER_KEYS, ("", *CLUSTER_TABLES))


def key_tables(title: str, known: Sequence[Key], tables: Sequence[str]) -> str:
    """Return a page with a table of keys for every table of a file, some of which are lists of tables."""
    sections = [f"# {title}"]
    for table in tables:
        several = table in ("boundary", "layer", "tied")
        heading = "At the top" if not table else f"`[[{table}]]`" if several else f"`[{table}]`"
        rows = [(f"`{key.name}`", key.shape, default_of(key), key.meaning) for key in known if key.table == table]
        sections += [f"## {heading}", "\n".join(markdown_table(("key", "takes", "default", "meaning"), rows))]
    return "\n\n".join(sections) + "\n"


def default_of(key: Key) -> str:
    """Return a key's default: as code where it is a value."""
    plain = not key.default or key.default.startswith(("no ", "a ", "by ", "the "))
    return key.default if plain else f"`{key.default}`"


def family_pages() -> str:
    """Return a section for every family."""
    sections = ["# Families"]
    for family in families():
        facts = [("source", family.source), ("placement", family.placement), ("takes", family.shapes)]
        backward = "I and W" if family.splits_backward else "B, in split problems too"
        facts += [("backward", backward), *(("not", exclusion) for exclusion in family.exclusions)]
        sections += [f"## {family.name}", "\n".join(f"- {name}: {fact}" for name, fact in facts)]
    return "\n\n".join(sections) + "\n"


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    for row in (heading, ["---"] * len(heading), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def main(arguments: Sequence[str]) -> int:
    """Write every page, or say which is not current."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        sys.stderr.writelines(f"{path} is not current; run docs/reference/make.py\n" for path in stale)
        return 1 if stale else 0
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
