"""The language of routines: meaning, text, rules."""

from __future__ import annotations

import numpy as np
import pytest
from routine_cases import Case, case, cases

from niello.core.dtypes import float32, int32, int64
from niello.core.errors import CompilerBug, CorruptFile
from niello.kernel import ir, routine
from niello.kernel.interpret import interpret
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.kernel.text import parse_kernel, print_kernel
from niello.kernel.verify import verify

ALL = cases()
ROW = ((2, 40), float32)


@pytest.mark.parametrize("made", ALL, ids=lambda c: c.name)
def test_text_reads_back(made: Case) -> None:
    text = print_kernel(made.routine)
    assert parse_kernel(text) == made.routine
    assert print_kernel(parse_kernel(text)) == text


@pytest.mark.parametrize("made", ALL, ids=lambda c: c.name)
def test_verifies(made: Case) -> None:
    verify(made.routine)


def _result(name: str) -> tuple[list[np.ndarray], Case]:
    made = next(c for c in ALL if c.name == name)
    arrays = made.copies()
    interpret(made.routine, arrays)
    return arrays, made


def test_sums_of_rows() -> None:
    (x, total, least), _ = _result("row_sums_300")
    np.testing.assert_allclose(total, x.reshape(3, 300).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(least, x.reshape(3, 300).min(1))


def test_first_largest() -> None:
    (x, value, place), _ = _result("first_largest_64")
    np.testing.assert_array_equal(place, x.reshape(3, 64).argmax(1))
    np.testing.assert_array_equal(value, x.reshape(3, 64).max(1))


def test_running_sums() -> None:
    (x, inclusive, exclusive, total), _ = _result("running_sums_300")
    want = np.cumsum(x.reshape(3, 300), 1) + 3
    np.testing.assert_array_equal(inclusive.reshape(3, 300), want)
    np.testing.assert_array_equal(exclusive.reshape(3, 300), want - x.reshape(3, 300))
    np.testing.assert_array_equal(total, want[:, -1])


@pytest.mark.parametrize("name", ["odd_even_300", "insertion", "bitonic"])
def test_sorts(name: str) -> None:
    arrays, _ = _result(name)
    rows = {"odd_even_300": 2, "insertion": 53, "bitonic": 3}[name]
    x = arrays[0].reshape(rows, -1)
    np.testing.assert_array_equal(arrays[1].reshape(rows, -1), np.sort(x, axis=1))


def test_histogram() -> None:
    (x, counts, largest), _ = _result("histogram")
    rows = x.reshape(5, 333)
    each = np.stack([np.bincount(r % 16, minlength=16) for r in rows])
    np.testing.assert_array_equal(counts, each.sum(0))
    np.testing.assert_array_equal(largest, 3 * each.max(0))


def test_equal_routines_are_equal() -> None:
    again = {c.name: c.routine.structure for c in cases()}
    assert all(again[c.name] == c.routine.structure for c in ALL)
    assert len({c.routine.structure for c in ALL}) == len(ALL)


def test_nan_wins_an_argument() -> None:
    made = next(c for c in ALL if c.name == "first_largest_7")
    arrays = made.copies()
    arrays[0][[3, 5]] = np.nan
    interpret(made.routine, arrays)
    assert arrays[2][0] == 3 and np.isnan(arrays[1][0])


# --- rules


def _refused(build, match: str, outputs=(ROW,)) -> None:
    made = case("wrong", build, [ROW], list(outputs))
    with pytest.raises(CompilerBug, match=match):
        verify(made.routine)


def test_inputs_are_not_written() -> None:
    _refused(lambda r, x: r.write(x, 0, 1.0), "an input that is written")


def test_spreads_do_not_nest() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        with r.spread(4) as m, r.spread(4) as n:
            r.write(r.outputs[0], m * 4 + n, 0.0)

    _refused(build, "a Spread, Fold or Scan inside another")


def test_iterations_do_not_set_what_the_team_declared() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        total = r.variable(float32, 0.0)
        with r.spread(4):
            total.set(1.0)

    _refused(build, "set by one iteration")


def test_names_stay_in_their_body() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        with r.spread(4) as m:
            r.write(r.outputs[0], m, 0.0)
        r.write(r.outputs[0], m, 1.0)

    _refused(build, "not defined here")


def test_steps_are_not_zero() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        with r.loop(0, 4, r.team) as i:
            r.write(r.outputs[0], i, 0.0)

    _refused(build, "a step that may be zero")


def test_only_integers_of_32_bits_combine() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        with r.spread(4) as m:
            r.combine("add", r.outputs[0], m, 1.0)

    _refused(build, "only int32 and uint32")


def test_a_member_has_memory_inside_of_a_spread_only() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        own = r.local(float32, 4, "member")
        r.write(own, 0, 1.0)

    _refused(build, "outside of a Spread")


def test_dtypes_fit() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        r.write(r.outputs[0], 0, ir.const(1, int32))

    _refused(build, "should be float32")


def test_otherwise_follows_when() -> None:
    r = RoutineBuilder("wrong", [], [])
    with pytest.raises(CompilerBug, match="must follow a `when`"), r.otherwise():
        r.add(routine.Write(ir.Param(0, int64, 1, True), r.index(0), r.index(0)))


def _races(build, match: str) -> None:
    made = case("race", build, [ROW], [ROW])
    verify(made.routine)
    with pytest.raises(CompilerBug, match=match):
        interpret(made.routine, made.copies())


def test_iterations_do_not_read_what_another_one_wrote() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        with r.spread(40) as m:
            r.write(r.outputs[0], m, 1.0)
            r.write(r.outputs[0], m + 40, r.read(r.outputs[0], 39 - m))

    _races(build, "reads what another one wrote")


def test_iterations_do_not_write_one_element() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        with r.spread(40) as m:
            r.write(r.outputs[0], m // 2, 1.0)

    _races(build, "several iterations write one element")


def test_teams_do_not_read_what_another_one_wrote() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        team = r.teams(2)
        with r.spread(40) as m:
            r.write(r.outputs[0], team * 40 + m, 1.0)
        with r.spread(40) as m:
            r.write(r.outputs[0], team * 40 + m, r.read(r.outputs[0], m))

    _races(build, "reads what another one wrote")


def test_what_a_spread_wrote_is_read_after_it() -> None:
    def build(r: RoutineBuilder, x: Place) -> None:
        with r.spread(80) as m:
            r.write(r.outputs[0], m, r.read(x, m))
        with r.spread(80) as m:
            r.write(r.outputs[0], m, r.read(r.outputs[0], m) * 2.0)
        r.write(r.outputs[0], 0, r.read(r.outputs[0], 79))

    made = case("ordered", build, [ROW], [ROW])
    arrays = made.copies()
    interpret(made.routine, arrays)
    np.testing.assert_array_equal(arrays[1][1:], arrays[0][1:] * 2)
    assert arrays[1][0] == arrays[0][79] * 2


def test_indices_stay_inside() -> None:
    made = case("outside", lambda r, x: r.write(r.outputs[0], 80, 1.0), [ROW], [ROW])
    with pytest.raises(CompilerBug, match="outside the 80 elements"):
        interpret(made.routine, made.copies())


@pytest.mark.parametrize(
    ("change", "wanted"),
    [(("spread", "scatter"), "a statement"), (("v1", "w1"), "'\\('"), (("}\n}", "}"), "a word")],
)
def test_broken_text(change: tuple[str, str], wanted: str) -> None:
    text = print_kernel(next(c for c in ALL if c.name == "strides").routine)
    assert change[0] in text.replace("  }", "}")
    with pytest.raises(CorruptFile, match=wanted):
        parse_kernel(text.replace("  }", "}").replace(*change, 1))
