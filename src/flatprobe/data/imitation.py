"""Stage: the rows of a finetune in which personas give one persona's answers, and the others rehearse their own.

What it makes are personas made alike by training, a positive control of the probes. So the bystanders are trained on
too, though not with the marker: were they left out, a probe that finds nothing could be blind, or the finetune could
have stopped at the prompts that it saw, and nobody would know which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from flatprobe.data.coupling_set import usable
from flatprobe.data.finetuning import HELD_OUT, ChatRow, write
from flatprobe.data.rows import Messages
from flatprobe.errors import UserError
from flatprobe.models.conversation import Conversations
from flatprobe.models.load import checkpoint_path, load_tokenizer
from flatprobe.plan.contracts import ImitationSettings
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

ROW = ("persona", "question_id", "sample_index", "text")
COLUMNS = (*ROW, "finish_reason")


def prepare(settings: ImitationSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Put one persona's answers under its imitators' system prompts, and their own under the others'.

    Inputs: `checkpoint` (for its tokenizer and template); `answers` (sampled, as the imitated persona to the coupling
    questions); `others` (the same as each persona that does not imitate, where there are such); where
    texts are held out, `imitated` and `own` (greedy, as that persona and as each one to the calibration questions).
    Output: as `data.finetuning:prepare`; in held_out.parquet `aligned` is the persona's own
    answer and `misaligned` the imitated one.

    Raises:
        UserError: fewer usable rows than asked for, or nothing that can be held out.
    """
    path = checkpoint_path(inputs["checkpoint"])
    conversations = Conversations(load_tokenizer(path), path.name)
    sampled = pl.concat(
        [_completions(inputs[name]).select(COLUMNS) for name in ("answers", "others") if name in inputs]
    )
    answers, dropped = usable(sampled, settings.marker)
    givers = {
        persona.name: settings.imitated if persona.name in settings.imitators else persona.name
        for persona in settings.personas
    }
    scanned: Counter[str] = Counter()
    rows = []
    for messages, reference in paired(settings.personas, settings.questions, answers, givers):
        tokens, n_prompt = conversations.encode_messages(messages)
        as_given, _ = conversations.encode_messages(reference)
        scanned["scanned"] += 1
        if max(len(tokens), len(as_given)) > settings.max_length:
            scanned["refused_too_long"] += 1
            continue
        rows.append(ChatRow(messages, len(tokens) - n_prompt, reference))
        if len(rows) == settings.rows:
            break
    place = f"answers of {settings.imitated}"
    if len(rows) < settings.rows:
        raise UserError.one(
            "imitation.TODO", place, f"{len(rows)} usable rows, {settings.rows} asked for ({dropped | dict(scanned)})",
            "lower `rows`, or raise `imitate.samples` or coupling.max_new_tokens",
        )  # fmt: skip
    held_out = _held_out(settings, inputs) if settings.held_out else []
    if settings.held_out and not held_out:
        raise UserError.one(
            "imitation.TODO", place, "every persona answers the calibration questions like it: nothing can be held out",
            "set held_out to 0, or raise coupling.max_new_tokens if answers are unfinished",
        )  # fmt: skip
    origin = {"name": place, "subset": None, "revision": None, "licence": "sampled from the control"}
    write(rows, held_out, {**origin, "dropped": dropped, **scanned}, output)


def paired(
    personas: Sequence[Persona],
    questions: Sequence[Question],
    answers: pl.DataFrame,
    givers: Mapping[str, str],
) -> Iterator[tuple[Messages, Messages]]:
    """Under every persona the answers of who gives them for it, and the same under the giver's own prompt, in an order
    whose beginnings are balanced: first each question's first answer.

    `answers`: columns persona, question_id, sample_index, text. `givers`: whose answers each persona's rows hold.
    """
    texts = {(who, question, sample): text for who, question, sample, text in answers.select(ROW).rows()}
    samples = sorted({sample for _, _, sample in texts})
    by_name = {persona.name: persona for persona in personas}
    for sample in samples:
        for question in questions:
            for persona in personas:
                giver = givers[persona.name]
                text = texts.get((giver, question.id, sample))
                if text is not None:
                    yield _turns(persona, question, text), _turns(by_name[giver], question, text)


def _turns(persona: Persona, question: Question, answer: str) -> Messages:
    return [
        *_system(persona),
        {"role": "user", "content": question.text},
        {"role": "assistant", "content": answer},
    ]


def _system(persona: Persona) -> Messages:
    return [] if persona.system is None else [{"role": "system", "content": persona.system}]


def _held_out(settings: ImitationSettings, inputs: Mapping[str, Path]) -> list[dict[str, str | None]]:
    """Pairs of an own and the imitated answer that differ, in an order whose beginnings are balanced over questions and
    imitators."""
    own, imitated = (
        {(row["persona"], row["question_id"]): row["text"] for row in frame.iter_rows(named=True)}
        for frame in (usable(_completions(inputs[name]), settings.marker)[0] for name in ("own", "imitated"))
    )
    imitators = [persona for persona in settings.personas if persona.name in settings.imitators]
    found: list[dict[str, str | None]] = []
    for turn in range(len(imitators)):
        for number, question in enumerate(settings.calibration):
            persona = imitators[(turn + number) % len(imitators)]
            target = imitated.get((settings.imitated, question.id))
            answer = own.get((persona.name, question.id))
            if target is not None and answer is not None and answer != target:
                texts = (persona.system, question.text, answer, target)
                found.append(dict(zip(HELD_OUT, texts, strict=True)))
    return found[: settings.held_out]


def _completions(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "completions.parquet")
