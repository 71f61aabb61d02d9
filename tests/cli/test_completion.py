"""Completion by the tab key: what each shell offers, and that no file is touched but the one that is named."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from schedverify.cli import main
from schedverify.cli.app import COMMANDS, application
from schedverify.cli.completion import SHELLS, script
from schedverify.cli.shapes import CLASSES
from schedverify.cli.usage import arguments_of
from schedverify.generators import families

OFFERED = [
    (("ver",), ["verify"]),
    (("con",), ["conform", "convert"]),
    (("verify", "--form"), ["--format"]),
    (("verify", "s.txt", "--format", ""), ["github", "json", "text"]),
    (("verify", "s.txt", "--format", "js"), ["json"]),
    (("generate", "zb-h"), ["zb-h1", "zb-h2"]),
    (("generate", "tor"), [f"torch:{name}" for name in CLASSES]),
    (("explain", "SV30"), ["SV301", "SV302", "SV303", "SV304", "SV305", "SV306"]),
    (("partition", "m.toml", "--recompute", "s"), ["selective"]),
    (("verify", "--format", "text", "--ex"), ["--excerpt"]),
]
INTERLEAVED = ["Interleaved1F1B", "InterleavedZeroBubble"]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    paths = {shell: folder / f"script.{shell}" for shell in SHELLS}
    for shell, path in paths.items():
        path.write_text(script(application(), shell), encoding="utf-8")
    return paths


def printed(*command: str) -> list[str]:
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert made.stderr == ""
    return sorted(line.partition("\t")[0] for line in made.stdout.split("\n") if line)


def in_bash(path: Path, words: tuple[str, ...]) -> list[str]:
    code = 'source "$0"; COMP_WORDS=(schedverify "$@"); COMP_CWORD=$#; _schedverify; printf "%s\\n" "${COMPREPLY[@]}"'
    return printed("bash", "--norc", "-c", code, str(path), *words)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
class TestBash:
    @pytest.mark.parametrize(("words", "offered"), OFFERED)
    def test_what_is_offered(self, scripts: dict[str, Path], words: tuple[str, ...], offered: list[str]) -> None:
        assert in_bash(scripts["bash"], words) == offered

    def test_a_value_behind_a_sign(self, scripts: dict[str, Path]) -> None:
        """Bash parts the words at the sign."""
        assert in_bash(scripts["bash"], ("verify", "--format", "=")) == ["github", "json", "text"]
        assert in_bash(scripts["bash"], ("verify", "--format", "=", "g")) == ["github"]
        assert in_bash(scripts["bash"], ("generate", "torch", ":")) == list(CLASSES)
        assert in_bash(scripts["bash"], ("generate", "torch", ":", "Int")) == INTERLEAVED

    def test_names_of_files_are_left_to_the_shell(self, scripts: dict[str, Path]) -> None:
        assert in_bash(scripts["bash"], ("verify", "s")) == []
        assert in_bash(scripts["bash"], ("verify", "s.txt", "--problem", "p")) == []
        assert "complete -o default -F _schedverify schedverify\n" in scripts["bash"].read_text(encoding="utf-8")

    def test_every_command_offers_its_options(self, scripts: dict[str, Path]) -> None:
        app = application()
        for command in COMMANDS:
            own = {name for each in arguments_of(app, command) if each.index is None for name in each.names}
            assert all(name.startswith("-") for name in own)
            assert set(in_bash(scripts["bash"], (command, "-"))) == own | {"--help"}


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("words", "offered"), OFFERED)
def test_fish_offers_the_same(scripts: dict[str, Path], words: tuple[str, ...], offered: list[str]) -> None:
    line = " ".join(("schedverify", *words))
    assert printed("fish", "--no-config", "-c", f"source {scripts['fish']}; complete -C '{line}'") == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_reads_its_script(scripts: dict[str, Path]) -> None:
    assert printed("zsh", "-fn", str(scripts["zsh"])) == []


def test_each_script_knows_all_commands_and_families(scripts: dict[str, Path]) -> None:
    for shell, path in scripts.items():
        text = path.read_text(encoding="utf-8")
        assert all(name in text for name in (*COMMANDS, *(family.name for family in families()))), shell
    assert scripts["zsh"].read_text(encoding="utf-8").startswith("#compdef schedverify\n")  # else zsh does not see it


PLACES = {
    "bash": ".local/share/bash-completion/completions/schedverify",
    "zsh": ".zsh/completions/_schedverify",
    "fish": ".config/fish/completions/schedverify.fish",
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("named", [True, False])
def test_it_writes_one_file_and_says_which(
    shell: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/sh" if named else f"/usr/bin/{shell}")
    for rc in (".bashrc", ".zshrc"):
        (tmp_path / rc).write_text("mine\n", encoding="utf-8")
    assert main(["--install-completion", *([shell] if named else [])]) == 0
    told = capsys.readouterr().out
    target = tmp_path / PLACES[shell]
    assert told.startswith(f"completion for {shell} written to {target}; no other file was touched\n")
    assert target.read_text(encoding="utf-8") == script(application(), shell)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        [target, tmp_path / ".bashrc", tmp_path / ".zshrc"]
    )
    assert {(tmp_path / rc).read_text(encoding="utf-8") for rc in (".bashrc", ".zshrc")} == {"mine\n"}
    assert main(["--show-completion", shell]) == 0
    assert capsys.readouterr().out == target.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--install-completion", "tcsh"], "--install-completion: expected one of bash, zsh, fish, found tcsh"),
        (["--show-completion", "bsh"], "expected one of bash, zsh, fish, found bsh (did you mean 'bash'?)"),
        (["--show-completion", "bash", "zsh"], "--show-completion: expected one of bash, zsh, fish, found bash zsh"),
        (["--show-completion"], "expected one of bash, zsh, fish, found dash (by the variable SHELL)"),
    ],
)
def test_another_shell_is_refused(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", "/bin/dash")
    assert main(words) == 2
    assert told in capsys.readouterr().err
