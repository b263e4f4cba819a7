"""Every persona exists and has one role; pools can be computed."""

from __future__ import annotations

import pytest
from drafts import Draft

FIELDS = {
    "source": "  source: librarian",
    "negatives": "negatives: [comedian, villain]",
    "reserve": "reserve: [beekeeper, astronaut]",
    "bystanders": "bystanders: [archivist, lumberjack]",
    "references": "references: [assistant]",
}


@pytest.mark.parametrize("role", FIELDS)
def test_a_persona_that_is_not_in_the_panel_comes_with_a_suggestion(draft: Draft, role: str) -> None:
    old = FIELDS[role]
    new = "  source: journlist" if role == "source" else old.replace("[", "[journlist, ")
    problem = draft.change(old, new).problem()
    field = "panel.source" if role == "source" else f"panel.{role}[0]"
    assert (problem.code, problem.place) == ("panel.unknown_persona", draft.line("journlist"))
    assert problem.message.startswith(f"{field} = journlist:")
    assert problem.remedy == "did you mean `journalist`?"


@pytest.mark.parametrize(
    ("old", "added", "message"),
    [
        ("bystanders: [archivist, lumberjack]", "villain",
         "villain is a negative and a bystander:"),
        ("bystanders: [archivist, lumberjack]", "librarian",
         "librarian is the source and a bystander:"),
        ("bystanders: [archivist, lumberjack]", "beekeeper",
         "beekeeper is in the reserve and a bystander:"),
        ("negatives: [comedian, villain]", "librarian",
         "librarian is the source and a negative:"),
        ("reserve: [beekeeper, astronaut]", "villain",
         "villain is a negative and in the reserve:"),
        ("references: [assistant]", "archivist",
         "archivist is a bystander and a reference:"),
    ],
)  # fmt: skip
def test_a_persona_in_two_roles_is_refused_with_the_reason(draft: Draft, old: str, added: str, message: str) -> None:
    new = old.replace("]", f", {added}]")
    problem = draft.change(old, new).problem()
    assert (problem.code, problem.place) == ("panel.role_clash", draft.line(new))
    assert problem.message.startswith(f"panel: {message}")


def test_a_persona_given_twice_in_one_role_is_refused(draft: Draft) -> None:
    new = "bystanders: [archivist, lumberjack, archivist]"
    problem = draft.change("bystanders: [archivist, lumberjack]", new).problem()
    assert (problem.code, problem.place) == ("panel.duplicate_persona", draft.line(new))
    assert problem.message.startswith("panel.bystanders[2] = archivist:")


def test_more_random_negatives_than_the_reserve_holds_are_refused(draft: Draft) -> None:
    problem = draft.change("random_negatives: 1", "random_negatives: 3").problem()
    assert (problem.code, problem.place) == ("panel.reserve_too_small", draft.line("random_negatives: 3"))
    assert problem.message == "panel.random_negatives = 3: the reserve holds 2"


def test_a_study_needs_a_negative_and_a_bystander(draft: Draft) -> None:
    draft.change("negatives: [comedian, villain]\n  random_negatives: 1", "negatives: []\n  random_negatives: 0")
    draft.change("bystanders: [archivist, lumberjack]", "bystanders: []")
    draft.change("  pools:\n    clean: [archivist]\n", "")
    assert [(problem.code, problem.place) for problem in draft.problems()] == [
        ("panel.no_negative", draft.line("negatives: []")),
        ("panel.no_bystander", draft.line("bystanders: []")),
    ]


def test_two_names_for_one_prompt_are_refused(draft: Draft) -> None:
    names = ("librarian", "comedian", "villain", "beekeeper", "astronaut", "archivist", "lumberjack", "assistant")
    prompts = {name: f"You are a {name}." for name in names} | {"archivist": "You are  a VILLAIN"}
    lines = [f"  {name}: {{prompt: {prompt}}}\n" for name, prompt in prompts.items()]
    (draft.path.parent / "panel.yaml").write_text(f"personas:\n{''.join(lines)}")
    problem = draft.change("  source: librarian", "  file: panel.yaml\n  source: librarian").problem()
    assert (problem.code, problem.place) == ("panel.equal_prompts", draft.line("bystanders:"))
    assert problem.message.startswith("panel.bystanders[0] = archivist:") and "villain" in problem.message


@pytest.mark.parametrize(
    ("pool", "code", "field"),
    [
        ("clean: [wedding_planner]", "panel.not_evaluated", "panel.pools.clean[0] = wedding_planner:"),
        ("clean: []", "panel.empty_pool", "panel.pools.clean:"),
        ("clean: [archivist, archivist]", "panel.duplicate_persona", "panel.pools.clean:"),
        ("bystanders: [archivist]", "panel.pool_name", "panel.pools.bystanders:"),
    ],
)
def test_a_pool_that_cannot_be_computed_is_refused(draft: Draft, pool: str, code: str, field: str) -> None:
    problem = draft.change("clean: [archivist]", pool).problem()
    assert (problem.code, problem.place) == (code, draft.line(f"    {pool}"))
    assert problem.message.startswith(field)


def test_a_pool_with_trained_personas_is_allowed_and_called_contaminated(draft: Draft) -> None:
    assert draft.load().notices == ()
    draft.change("clean: [archivist]", "as_written: [villain, archivist, librarian]")
    (notice,) = draft.load().notices
    assert notice.startswith(f"{draft.line('as_written')}  pool as_written is contaminated: villain, librarian are")


def test_a_pool_may_hold_the_negative_that_is_drawn(draft: Draft) -> None:
    trained = [persona.name for persona in draft.load().personas() if persona.role == "negative"]
    draft.change("clean: [archivist]", f"drawn: [{trained[-1]}]")
    (notice,) = draft.load().notices
    assert f"{trained[-1]} is trained on" in notice
