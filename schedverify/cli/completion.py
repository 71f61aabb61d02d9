"""Completion by the tab key: a script for bash, zsh or fish, printed or written where the shell looks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final, NamedTuple

from schedverify.cli.shapes import CLASSES, PREFIX
from schedverify.cli.usage import arguments_of
from schedverify.core.errors import Fault, InputError, nearest

if TYPE_CHECKING:
    from cyclopts import App

SHOW, INSTALL = "--show-completion", "--install-completion"
SHELLS: Final = ("bash", "zsh", "fish")


class Offer(NamedTuple):
    """What is offered behind a command."""

    options: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    """By option that takes one of some values, these."""
    words: tuple[str, ...] = ()
    """What its argument may be, where that is no file."""


def complete(app: App, words: list[str]) -> int:
    """Print the script for a shell, or write it and say where and what is left to do; return the exit code.

    Parameters
    ----------
    app
        The command line with all commands.
    words
        ``--show-completion`` or ``--install-completion``, and a shell; that of the process by default.

    Raises
    ------
    InputError
        If the shell is none that is known, or the file cannot be written.
    """
    asked = words[1] if len(words) > 1 else PurePath(os.environ.get("SHELL", "")).name
    if asked not in SHELLS or len(words) > 2:
        found = " ".join(words[1:])[:40] or f"{asked} (by the variable SHELL)"
        raise InputError(Fault(words[0], f"expected one of {', '.join(SHELLS)}, found {found}", nearest(asked, SHELLS)))
    text = script(app, asked)
    if words[0] == SHOW:
        print(text, end="")
        return 0
    from schedverify.formats.text_files import write_text

    path, rest = _place(asked)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    print(f"completion for {asked} written to {path}; no other file was touched\n{rest}")
    return 0


def script(app: App, shell: str) -> str:
    """Return the script that completes commands, options, their values, families, codes and names of files."""
    offers = _offers(app)
    lines = _fish(app, offers) if shell == "fish" else _bash(offers) if shell == "bash" else _zsh(offers)
    first = ["#compdef schedverify"] if shell == "zsh" else []  # zsh looks for it in the first line
    return "\n".join([*first, f"# completion of schedverify, by schedverify {INSTALL} {shell}", *lines]) + "\n"


def _offers(app: App) -> dict[str, Offer]:
    from schedverify.generators import families
    from schedverify.verifier.rules import REGISTRY

    classes = tuple(f"{PREFIX}{name}" for name in CLASSES)
    words = {"generate": (*(family.name for family in families()), *classes), "explain": tuple(sorted(REGISTRY))}
    offers = {}
    for command in app:
        if command.startswith("-"):
            continue
        named = [each for each in arguments_of(app, command) if each.index is None]
        values = {name: tuple(map(str, each.get_choices() or ())) for each in named for name in each.names}
        chosen = {name: choices for name, choices in values.items() if choices}
        if command == "generate":
            chosen[PREFIX.removesuffix(":")] = CLASSES  # bash parts torch:GPipe at the sign
        offers[command] = Offer((*values, "--help"), chosen, words.get(command, ()))
    return offers


def _bash(offers: Mapping[str, Offer]) -> Iterator[str]:
    yield from (
        "_schedverify() {",
        "  local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} before=${COMP_WORDS[COMP_CWORD-1]} offered=()",
        '  [[ $before == "=" ]] && before=${COMP_WORDS[COMP_CWORD-2]}',  # bash parts --format=json at the sign
        '  [[ $before == ":" ]] && before=${COMP_WORDS[COMP_CWORD-2]}',  # and torch:GPipe
        "  [[ $word == [=:] ]] && word=",
        "  if ((COMP_CWORD == 1)); then",
        f"    offered=({_first(offers)})",
        *_cases(offers),
        "  fi",
        '  COMPREPLY=($(compgen -W "${offered[*]}" -- "$word"))',
        "}",
        "complete -o default -F _schedverify schedverify",  # where nothing is offered, names of files
    )


def _zsh(offers: Mapping[str, Offer]) -> Iterator[str]:
    yield from (
        "_schedverify() {",
        "  local word=$words[CURRENT] command=$words[2] before=$words[CURRENT-1]",
        "  local -a offered",
        "  if [[ $word == --*=* ]]; then before=${word%%=*}; word=${word#*=}; compset -P '*='; fi",
        "  if ((CURRENT == 2)); then",
        f"    offered=({_first(offers)})",
        *_cases(offers),
        "  fi",
        "  if (($#offered)); then compadd -a offered; else _files; fi",
        "}",
        'if [[ $funcstack[1] == _schedverify ]]; then _schedverify "$@"; else compdef _schedverify schedverify; fi',
    )


def _cases(offers: Mapping[str, Offer]) -> Iterator[str]:
    """Yield lines that bash and zsh understand alike: what is offered behind an option, or behind a command."""
    yield from ("  elif [[ $word == -* ]]; then", '    case "$command" in')
    for command, offer in offers.items():
        yield f"      {command}) offered=({' '.join(offer.options)}) ;;"
    yield from ("    esac", "  else", '    case "$command $before" in')
    for command, offer in offers.items():
        for option, values in offer.values.items():
            yield f'      "{command} {option}") offered=({" ".join(values)}) ;;'
        if offer.words:
            yield f'      "{command} {command}") offered=({" ".join(offer.words)}) ;;'
    yield "    esac"


def _fish(app: App, offers: Mapping[str, Offer]) -> Iterator[str]:
    for command, offer in offers.items():
        about = app[command].help.partition("\n")[0].replace("'", "\\'")
        yield f"complete -c schedverify -f -n __fish_use_subcommand -a {command} -d '{about}'"
        behind = f"complete -c schedverify -n '__fish_seen_subcommand_from {command}'"
        if offer.words:
            yield f"{behind} -a '{' '.join(offer.words)}'"
        for option in offer.options:
            name = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            values = offer.values.get(option)
            yield f"{behind} {name}" + (f" -x -a '{' '.join(values)}'" if values else "")


def _first(offers: Mapping[str, Offer]) -> str:
    return " ".join((*offers, "--help", "--version", INSTALL, SHOW))


def _place(shell: str) -> tuple[Path, str]:
    """Return where a shell looks for the completion of a command, and what is left to do."""
    home = Path.home()
    if shell == "zsh":
        folder = home / ".zsh" / "completions"
        line = f"fpath=({folder} $fpath); autoload -Uz compinit; compinit"
        return folder / "_schedverify", f"if it is not there yet, add to {home / '.zshrc'}: {line}"
    if shell == "fish":
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "completions"
        return folder / "schedverify.fish", "new shells have it"
    folder = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "bash-completion" / "completions"
    rest = f"new shells have it where bash-completion is installed; elsewhere add to {home / '.bashrc'}: "
    return folder / "schedverify", f"{rest}source {folder / 'schedverify'}"
