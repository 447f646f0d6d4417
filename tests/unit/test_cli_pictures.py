from pathlib import Path

import pytest

from safelight.cli.faults import UsageError
from safelight.cli.images import _extra
from safelight.cli.pictures import Destination, slug
from safelight.cli.tables import columns, size

ID = "0c4f3f0e-6f0a-4b7e-9a51-0d6c3a1f2b44"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A red fox, in the SNOW!", "a-red-fox-in-the-snow"),
        ("../../etc/passwd", "etc-passwd"),
        ("a very long prompt that goes on and on until the end", "a-very-long-prompt-that-goes-on-and-on"),
        ("x" * 100, "x" * 40),
        ("Füchse im Schnee", "füchse-im-schnee"),
        ("…", "picture"),
        ("", "picture"),
    ],
)
def test_a_prompt_becomes_a_file_name(text: str, name: str) -> None:
    assert slug(text) == name


def test_without_output_the_name_comes_from_prompt_and_job() -> None:
    here = Destination.of(None, force=False)
    assert here.path("a fox", ID, 0, 1, "image/png") == Path("a-fox-0c4f3f0e.png")
    assert here.path("a fox", ID, 1, 2, "image/jpeg") == Path("a-fox-0c4f3f0e-2.jpg")
    assert here.format is None


@pytest.mark.parametrize("output", ["new/", "new", "there.d"])
def test_a_folder(output: str, tmp_path: Path) -> None:
    (tmp_path / "there.d").mkdir()
    folder = Destination.of(f"{tmp_path}/{output}", force=False)
    assert folder.file is None
    folder.prepare(1)
    assert (tmp_path / output).is_dir()


def test_a_file_asks_for_its_format_and_numbers_several(tmp_path: Path) -> None:
    file = Destination.of(str(tmp_path / "fox.jpg"), force=False)
    assert file.format == "jpeg"
    assert file.path("x", ID, 0, 1, "image/jpeg") == tmp_path / "fox.jpg"
    assert file.path("x", ID, 1, 3, "image/jpeg") == tmp_path / "fox-2.jpg"


def test_another_suffix_is_neither(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fox\.tiff is neither a folder nor a picture"):
        Destination.of(str(tmp_path / "fox.tiff"), force=False)


def test_nothing_is_overwritten_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "fox-2.png").touch()
    output = str(tmp_path / "fox.png")
    Destination.of(output, force=False).prepare(1)
    with pytest.raises(UsageError, match="--force"):
        Destination.of(output, force=False).prepare(2)
    Destination.of(output, force=True).prepare(2)
    assert Destination.of(output, force=True).path("x", ID, 1, 2, "image/png") == tmp_path / "fox-2.png"


def test_a_name_taken_meanwhile_gets_a_number(tmp_path: Path) -> None:
    wanted = Destination.of(str(tmp_path / "fox.png"), force=False)
    wanted.prepare(1)
    (tmp_path / "fox.png").touch()
    (tmp_path / "fox (2).png").touch()
    assert wanted.path("x", ID, 0, 1, "image/png") == tmp_path / "fox (3).png"


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_paid(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made"):
        Destination.of(f"{tmp_path}/file/below/", force=False).prepare(1)


def test_extra_values_are_json_where_they_can_be() -> None:
    assert _extra(["steps=30", "hd=true", "style=oil", "eq=a=b", "empty="]) == {
        "steps": 30,
        "hd": True,
        "style": "oil",
        "eq": "a=b",
        "empty": "",
    }
    with pytest.raises(UsageError):
        _extra(["=1"])


def test_columns_and_sizes() -> None:
    assert columns([("a", "bb"), ("ccc", "d")], indent=" ") == " a    bb\n ccc  d"
    assert [size(number) for number in (0, 999, 1000, 353_400, 5e6, 2e12)] == [
        "0 bytes",
        "999 bytes",
        "1 KB",
        "353 KB",
        "5 MB",
        "2e+03 GB",
    ]
