from bocage.cli import table

NAME, STATE, PATH = table.Column("NAME", least=8), table.Column("STATE"), table.Column("PATH", least=6)


def test_a_table_has_its_columns_below_each_other():
    drawn = table.render([NAME, STATE], [("web1", "running"), ("a-longer-name", "off")], within=80)
    assert drawn.splitlines() == ["NAME           STATE", "web1           running", "a-longer-name  off"]


def test_numbers_stand_at_the_right():
    drawn = table.render([table.Column("N", right=True), STATE], [("5", "a"), ("120", "b")], within=80)
    assert drawn.splitlines()[1:] == ["  5  a", "120  b"]


def test_no_line_is_longer_than_the_terminal_and_the_last_column_gives_way_first():
    rows = [("n" * 20, "running", "/srv/" + "p" * 100)]
    drawn = table.render([NAME, STATE, PATH], rows, within=60)
    assert all(len(line) <= 60 for line in drawn.splitlines())
    assert "n" * 20 in drawn
    assert drawn.endswith("p…")


def test_a_name_is_cut_only_when_nothing_else_can_give():
    drawn = table.render([NAME, STATE, PATH], [("n" * 63, "running", "/srv/path")], within=60)
    assert max(map(len, drawn.splitlines())) <= 60
    assert "/srv/…" in drawn
    assert "n…" in drawn


def test_what_cannot_be_cut_is_whole_however_narrow_the_terminal_is():
    assert "running" in table.render([NAME, STATE, PATH], [("n" * 63, "running", "/p" * 40)], within=10)


def test_wide_characters_take_two_cells():
    drawn = table.render([NAME, STATE], [("日本", "x"), ("abcd", "y")], within=80)
    assert drawn.splitlines()[1:] == ["日本  x", "abcd  y"]
    assert table.cut("日本語", 4) == "日…"


def test_control_characters_of_a_name_do_not_reach_the_terminal():
    assert "\x1b" not in table.render([NAME], [("\x1b[2J",)], within=80)
    assert "\x07" not in table.facts([("title", "a\x07b")])


def test_facts_leave_out_what_is_empty_and_go_on_below_themselves():
    drawn = table.facts([("name", "web1"), ("title", ""), ("reason", "one two three four five six")], within=32)
    assert drawn.splitlines() == ["name    web1", "reason  one two three four five", "        six"]


def test_a_paragraph_goes_on_below_its_first_word():
    said = table.paragraph("one two three four five six", lead="→ ", within=22)
    assert said.splitlines() == ["→ one two three four", "  five six"]
