"""What is said of wrong usage: what is missing or wrong, the nearest name, and the command's usage line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, get_args

from schedverify.core.errors import Fault, InputError, nearest

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError
    from cyclopts.argument import Argument

LISTS: Final = ("--select", "--ignore")
"""The options that take several names, parted by commas."""


def arguments_of(app: App, command: str) -> list[Argument]:
    """Return the arguments and options of a command; those that belong together stand each by itself."""
    return [each for each in app[command].assemble_argument_collection() if not each.children]


def usage_line(app: App, command: str) -> str:
    """Return how a command is called: its arguments, its options that are needed, and whether it has others."""
    arguments = arguments_of(app, command)
    needed = [_metavariable(each) if each.index is not None else f"{each.name} {_metavariable(each)}"
              for each in arguments if each.required]  # fmt: skip
    others = ["[OPTIONS]"] if len(needed) < len(arguments) else []
    return " ".join(["schedverify", command, *needed, *others])


def complaint(error: CycloptsError, app: App, words: Sequence[str], commands: Sequence[str]) -> str:
    """Return what is wrong with the words of a call, line by line; the last line is the usage.

    Parameters
    ----------
    app
        The command line with the command that was called, or with all of them.
    commands
        The names of all commands.
    """
    command = words[0] if words else ""
    if command not in commands:
        what = "option" if command.startswith("-") else "command"
        listed = f"{'a command comes first' if what == 'option' else 'the commands are'}: {', '.join(commands)}"
        hint = (
            nearest(command, [*commands, "--help", "--version", "--install-completion", "--show-completion"]) or listed
        )
        usage = "schedverify COMMAND [OPTIONS]; schedverify COMMAND --help says more"
        return f"{Fault('', f'no {what} {command[:80]!r}', hint)}\nusage: {usage}"
    faults = [Fault(command, *_told(error, app, words))]
    usage = f"{usage_line(app, command)}; schedverify {command} --help says more"
    return f"{InputError(faults)}\nusage: {usage}"


def option_names(app: App, command: str) -> dict[str, str]:
    """Return by the Python name of each option of a command the name that it has on the command line."""
    arguments = arguments_of(app, command)
    return {each.field_info.name: _long(each) for each in arguments if each.index is None}


def _told(error: CycloptsError, app: App, words: Sequence[str]) -> tuple[str, str]:
    """Return what is wrong, and what would do."""
    from cyclopts import exceptions as known

    arguments = arguments_of(app, words[0])
    match error:
        case known.UnknownOptionError(token=token):
            name = (token.keyword or token.value).partition("=")[0]
            told = f"no option {name[:80]!r}", nearest(name, [each for one in arguments for each in one.names])
        case known.MissingArgumentError(argument=argument) if argument is not None:
            told = _missing(argument, error.keyword)
        case known.UnusedCliTokensError(unused_tokens=[token, *_]):
            told = _too_many(token, words, arguments)
        case known.CoercionError(argument=argument, token=token) if argument is not None and token is not None:
            told = _unfit(argument, token.value, str(error.msg or ""))
        case known.ValidationError(argument=argument) if argument is not None:
            told = _unfit(argument, str(argument.value), error.exception_message)
        case known.RepeatArgumentError():
            told = f"{error.token.keyword} stands twice", "give it once"
        case _:
            told = str(error).partition("\n")[0], ""
    return told


def _missing(argument: Argument, keyword: str | None) -> tuple[str, str]:
    """Say that an argument or an option is missing, or an option's value."""
    given = keyword or next((token.keyword for token in argument.tokens if token.keyword), None)
    meaning = (argument.parameter.help or "").rstrip(".")
    if given is not None:
        return f"{given} needs a value", meaning
    return f"{_metavariable(argument) if argument.index is not None else _long(argument)} is missing", meaning


def _too_many(token: str, words: Sequence[str], arguments: Sequence[Argument]) -> tuple[str, str]:
    """Say that a word has no place: behind a list that takes commas, for a problem without its option, or at all."""
    before = list(words[: words.index(token)]) if token in words else []
    option = next((word.partition("=")[0] for word in reversed(before) if word.startswith("--")), "")
    if option in LISTS:
        values = before[before.index(option) + 1 :] if option in before else []
        return f"{token[:80]!r} has no place here", f"names are parted by commas: {option} {','.join([*values, token])}"
    names = {name for each in arguments for name in each.names}
    if "--problem" in names and token.endswith((".toml", ".json")):
        return f"{token[:80]!r} has no place here", "a problem file stands behind --problem"
    positional = [_metavariable(each) for each in arguments if each.index is not None]
    return f"{token[:80]!r} is one too many", f"it takes {' and '.join(positional) or 'options alone'}"


def _unfit(argument: Argument, found: str, reason: str) -> tuple[str, str]:
    """Say that a value does not fit: what is expected, what was found, the nearest choice."""
    name = _long(argument) if argument.index is None else _metavariable(argument)
    choices = [str(choice) for choice in argument.get_choices() or ()]
    hint = nearest(found, choices)
    types = {argument.hint, *get_args(argument.hint)}
    expected = reason or f"expected one of {', '.join(choices)}"
    if not choices and not reason:
        expected = "it takes no value" if bool in types else "expected a number" if float in types else "expected text"
    return f"{name}: {expected}, found {found[:80]!r}", hint


def _metavariable(argument: Argument) -> str:
    return argument.name.removeprefix("--").replace("-", "_").upper()


def _long(argument: Argument) -> str:
    return next((name for name in argument.names if name.startswith("--")), argument.name)
