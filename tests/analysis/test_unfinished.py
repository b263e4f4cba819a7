from __future__ import annotations

from flatprobe.analysis.read_states import unfinished_questions

INDEX = {"unfinished": [["librarian", "q1"], ["comedian", "q2"]], "unfinished_fixed": ["q3"]}


def test_own_answers_count_for_the_personas_compared_and_fixed_ones_for_all() -> None:
    assert unfinished_questions(INDEX, "own", ("librarian", "archivist")) == {"q1"}
    assert unfinished_questions(INDEX, "own", ("archivist",)) == set()
    assert unfinished_questions(INDEX, "fixed", ("archivist",)) == {"q3"}
