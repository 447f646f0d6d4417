"""Plots say what their tables say."""

from benchmarks.plots import plot, read

TABLE = """| median | floor | Safelight | aim |
|---|---|---|---|
| jobs a second | 1,743 | **644** | |
| submit, p50 | 13 ms | 18 ms | 20 ms |
| a look | 9 ms | 0.9 % | |
| what helped | memory | | |
"""


def test_rows_with_numbers_become_lines() -> None:
    lines = read(TABLE)
    assert [line.label for line in lines] == ["jobs a second", "submit, p50"]
    assert [(cell.column, cell.value) for cell in lines[0].cells] == [("floor", 1743), ("Safelight", 644)]
    assert [cell.text for cell in lines[1].cells] == ["13 ms", "18 ms", "20 ms"]


def test_a_plot_shows_every_number_and_says_what_it_is() -> None:
    drawn = plot(TABLE)
    assert all(text in drawn for text in ("1,743", "644", "13 ms", "18 ms", "jobs a second", 'role="img"'))


def test_a_table_of_words_has_no_plot() -> None:
    assert plot("| a | b |\n|---|---|\n| c | d |\n") == ""
