"""A file of a stranger names regular files below the root of its repository, and is refused whatever else it names."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedverify.core.errors import InputError
from schedverify.linting.contained_files import ContainedFiles, root_of

SECRET = "TOKEN-ab12"


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Return a repository in a folder that has a secret beside it."""
    (tmp_path / "secret").write_text(SECRET)
    repository = tmp_path / "repository"
    for folder in (".git", "cases", "common"):
        (repository / folder).mkdir(parents=True)
    (repository / ".git" / "config").write_text(SECRET)
    (repository / "common" / "p.toml").write_text("p")
    (repository / "cases" / "own.txt").write_text("own")
    return repository


def read(desk: Path, name: str, limit: int = 100) -> str:
    return ContainedFiles(desk / "cases").read(desk / "cases" / name, "a thing", limit)


def refusal(desk: Path, name: str) -> str:
    with pytest.raises(InputError) as caught:
        read(desk, name)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_what_stands_in_the_repository_is_read(desk: Path) -> None:
    (desk / "cases" / "link").symlink_to(desk / "common" / "p.toml")
    (desk / "cases" / "folder").symlink_to(desk / "common")
    assert read(desk, "own.txt") == "own"
    for name in (
        "../common/p.toml",
        "link",
        "folder/p.toml",
        "../cases/../common/./p.toml",
        str(desk / "common/p.toml"),
    ):
        assert read(desk, name) == "p"
    with pytest.raises(InputError, match="3 bytes or more, where a thing has at most 2"):
        read(desk, "own.txt", 2)


OUTSIDE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "above": ("../../secret", lambda desk: None),
    "absolute": ("/etc/passwd", lambda desk: None),
    "absent outside": ("../../no-such-file", lambda desk: None),
    "of another process": ("/proc/self/environ", lambda desk: None),
    "a device": ("/dev/zero", lambda desk: None),
    "through a folder": ("x/../../../secret", lambda desk: (desk / "cases" / "x").mkdir()),
    "a link out": ("link", lambda desk: (desk / "cases" / "link").symlink_to("../../secret")),
    "a link to a device": ("link", lambda desk: (desk / "cases" / "link").symlink_to("/dev/zero")),
    "a link to a link": ("one", lambda desk: [
        (desk / "cases" / "one").symlink_to("two"), (desk / "cases" / "two").symlink_to(desk.parent / "secret"),
    ]),
    "a folder that is a link": ("link/secret", lambda desk: (desk / "cases" / "link").symlink_to(desk.parent)),
    "a folder with its name in front": ("../../repository2/f", lambda desk: (desk.parent / "repository2").mkdir()),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_leads_out_is_refused(desk: Path, case: str) -> None:
    name, prepare = OUTSIDE[case]
    prepare(desk)
    assert f"it leads out of {os.path.realpath(desk)} (name a regular file below it" in refusal(desk, name)


INSIDE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "git's own": ("../.git/config", lambda desk: None, "it is a file of git's own"),
    "git's own by a link": ("link", lambda d: (d / "cases/link").symlink_to("../.git/config"), "a file of git's own"),
    "git's own in capitals": ("../.GIT/config", lambda desk: None, "it is a file of git's own"),
    "a pipe": ("pipe", lambda desk: os.mkfifo(desk / "cases" / "pipe"), "no regular file; expected a thing"),
    "a link to a pipe": ("link", lambda desk: [
        os.mkfifo(desk / "common" / "pipe"), (desk / "cases" / "link").symlink_to("../common/pipe"),
    ], "no regular file; expected a thing"),
    "a folder": ("../common", lambda desk: None, "a folder; expected a thing"),
    "itself": (".", lambda desk: None, "a folder; expected a thing"),
    "standard input": ("-", lambda desk: None, "no such file; expected a thing"),
    "a loop": ("link", lambda desk: (desk / "cases" / "link").symlink_to("link"), "cannot be read: "),
    "absent": ("absent", lambda desk: None, "no such file; expected a thing"),
    "no path": ("a\0b", lambda desk: None, "the path is no path"),
    "too long": ("x" * 300, lambda desk: None, "cannot be read: File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("case", INSIDE)
def test_what_is_no_regular_file_is_refused(desk: Path, case: str) -> None:
    name, prepare, told = INSIDE[case]
    prepare(desk)
    assert told in refusal(desk, name)


def test_a_pipe_with_a_writer_is_not_waited_for(desk: Path) -> None:
    os.mkfifo(desk / "cases" / "pipe")
    found: list[str] = []
    reading = threading.Thread(target=lambda: found.append(refusal(desk, "pipe")), daemon=True)
    reading.start()
    reading.join(20)
    assert len(found) == 1


class TestRoot:
    def test_the_repository_is_the_nearest_with_git_in_it(self, desk: Path) -> None:
        (desk / "cases" / "pyproject.toml").write_text("")
        assert root_of(desk / "cases") == root_of(desk) == desk
        (desk / "cases" / ".git").write_text("gitdir: elsewhere")
        assert root_of(desk / "cases") == desk / "cases"

    def test_without_git_it_is_the_given_one_where_that_is_above(self, tmp_path: Path) -> None:
        folder = tmp_path / "a" / "b"
        folder.mkdir(parents=True)
        assert root_of(folder) == folder
        (tmp_path / "pyproject.toml").write_text("")
        assert root_of(folder) == tmp_path
        assert root_of(folder, tmp_path / "a") == tmp_path / "a"
        assert root_of(folder, tmp_path / "other") == tmp_path

    def test_the_links_of_the_folder_itself_are_followed(self, desk: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(desk / "cases")
        assert ContainedFiles(tmp_path / "link").read(tmp_path / "link" / "own.txt", "a thing", 9) == "own"
        assert ContainedFiles(tmp_path / "link").root == desk


PARTS = st.lists(st.sampled_from(["..", ".", "a", "b", "out", "in", "loop", "secret", "file"]), min_size=1, max_size=6)


@given(PARTS)
def test_nothing_outside_is_ever_read(parts: list[str]) -> None:
    """Of all ways through folders and links, those are read that the system itself leads to a file within."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder).resolve()
        (base / "secret").write_text(SECRET)
        (base / "a" / "b").mkdir(parents=True)
        (base / "a" / ".git").mkdir()
        for place in (base / "a", base / "a" / "b"):
            (place / "file").write_text("inside")
            (place / "out").symlink_to(base)
            (place / "in").symlink_to(base / "a")
            (place / "loop").symlink_to("loop")
        path = (base / "a" / "b").joinpath(*parts)
        try:
            found = ContainedFiles(base / "a" / "b").read(path, "a thing", 99)
        except InputError as error:
            found = str(error)
        reached = path.read_text() if path.is_file() else ""
        assert (found == "inside") or (reached in ("", SECRET) and SECRET not in found)
