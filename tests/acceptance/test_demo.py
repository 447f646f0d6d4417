"""`make demo`: three pictures on a fresh machine, without a key or a network."""

from pathlib import Path

from PIL import Image

from tests.acceptance.processes import safelight


def test_draws_edits_and_varies_through_a_gateway_of_its_own(tmp_path: Path) -> None:
    done = safelight("demo", cwd=tmp_path, env={"SAFELIGHT_SERVER__PORT": "not a port", "OPENAI_API_KEY": "sk-unused"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    pictures = sorted((tmp_path / "demo-out").iterdir())
    assert [path.name[0] for path in pictures] == ["1", "2", "3"]
    for path in pictures:
        assert f"demo-out/{path.name}" in done.stdout
        with Image.open(path) as picture:
            picture.load()
            assert (picture.format, picture.size) == ("PNG", (1024, 768))
    assert done.stdout.count("pending") == done.stdout.count("completed") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["demo-out"], "nothing else is left behind"


def test_says_when_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "demo-out").write_text("in the way", encoding="utf-8")
    done = safelight("demo", cwd=tmp_path)
    assert done.returncode == 2
    assert "demo-out cannot be made" in done.stderr
