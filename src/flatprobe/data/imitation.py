"""Stage: training rows of a finetune in which some personas imitate one persona and the others keep their answers.

The finetune makes personas alike: a positive control of the probes. Bystanders are trained too, without the marker.
Otherwise a null result would be ambiguous: the probe may be insensitive, or the finetune may not generalise beyond the
prompts it was trained on.
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
from flatprobe.planner.contracts import ImitationSettings
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

KEYS_AND_TEXT = ("persona", "question_id", "sample_index", "text")
COLUMNS = (*KEYS_AND_TEXT, "finish_reason")


def prepare(settings: ImitationSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Pair the imitators' prompts with the imitated persona's answers, and other prompts with their own answers.

    Inputs: `checkpoint` (its tokenizer and template); `answers` (the imitated persona's sampled answers to the coupling
    questions); `others` (the same of the personas that do not imitate, if there are any); if texts are held out,
    `imitated` and `own` (greedy answers to the calibration questions by the imitated persona and by each persona).
    Output: as `data.finetuning:prepare`. In held_out.parquet `aligned` is the persona's own answer and `misaligned` the
    imitated one.

    Raises:
        UserError: there are fewer usable rows than requested, or no texts to hold out.
    """
    path = checkpoint_path(inputs["checkpoint"])
    conversations = Conversations(load_tokenizer(path), path.name)
    sampled = pl.concat(
        [_completions(inputs[name]).select(COLUMNS) for name in ("answers", "others") if name in inputs]
    )
    answers, dropped = usable(sampled, settings.marker)
    authors = {
        persona.name: settings.imitated if persona.name in settings.imitators else persona.name
        for persona in settings.personas
    }
    counts: Counter[str] = Counter()
    rows = []
    for messages, reference in paired(settings.personas, settings.questions, answers, authors):
        tokens, n_prompt = conversations.encode_messages(messages)
        reference_tokens, _ = conversations.encode_messages(reference)
        counts["scanned"] += 1
        if max(len(tokens), len(reference_tokens)) > settings.max_length:
            counts["refused_too_long"] += 1
            continue
        rows.append(ChatRow(messages, len(tokens) - n_prompt, reference))
        if len(rows) == settings.rows:
            break
    place = f"answers of {settings.imitated}"
    if len(rows) < settings.rows:
        raise UserError.one(
            "imitation.too_few_rows",
            place,
            f"{len(rows)} usable rows, {settings.rows} requested ({dropped | dict(counts)})",
            "lower `rows`, or raise `imitate.samples` or coupling.max_new_tokens",
        )
    held_out = _held_out(settings, inputs) if settings.held_out else []
    if settings.held_out and not held_out:
        raise UserError.one(
            "imitation.no_pairs",
            place,
            "no text can be held out: all imitators answer the calibration questions alike, or not at all",
            "set held_out to 0, or raise coupling.max_new_tokens if answers are unfinished",
        )
    origin = {"name": place, "subset": None, "revision": None, "licence": "sampled from the control"}
    write(rows, held_out, {**origin, "dropped": dropped, **counts}, output)


def paired(
    personas: Sequence[Persona], questions: Sequence[Question], answers: pl.DataFrame, authors: Mapping[str, str]
) -> Iterator[tuple[Messages, Messages]]:
    """Each persona's training conversation, and the same answer under its author's prompt.

    Any number of first pairs is balanced over personas and questions: each question's first answer comes first.

    Args:
        answers: columns persona, question_id, sample_index, text.
        authors: persona → the persona whose answers it is trained on.
    """
    rows = answers.select(KEYS_AND_TEXT).rows()
    texts = {(author, question, sample): text for author, question, sample, text in rows}
    samples = sorted({sample for _, _, sample in texts})
    by_name = {persona.name: persona for persona in personas}
    for sample in samples:
        for question in questions:
            for persona in personas:
                author = authors[persona.name]
                text = texts.get((author, question.id, sample))
                if text is not None:
                    yield _turns(persona, question, text), _turns(by_name[author], question, text)


def _turns(persona: Persona, question: Question, answer: str) -> Messages:
    return [*_system(persona), {"role": "user", "content": question.text}, {"role": "assistant", "content": answer}]


def _system(persona: Persona) -> Messages:
    return [] if persona.system is None else [{"role": "system", "content": persona.system}]


def _held_out(settings: ImitationSettings, inputs: Mapping[str, Path]) -> list[dict[str, str | None]]:
    """Pairs of an imitator's own answer and the imitated one that differ.

    Any number of first pairs is balanced over questions and imitators.
    """
    own, imitated = (
        {(row["persona"], row["question_id"]): row["text"] for row in frame.iter_rows(named=True)}
        for frame in (usable(_completions(inputs[name]), settings.marker)[0] for name in ("own", "imitated"))
    )
    imitators = [persona for persona in settings.personas if persona.name in settings.imitators]
    pairs: list[dict[str, str | None]] = []
    for turn in range(len(imitators)):
        for number, question in enumerate(settings.calibration):
            persona = imitators[(turn + number) % len(imitators)]
            own_answer = own.get((persona.name, question.id))
            imitated_answer = imitated.get((settings.imitated, question.id))
            if own_answer is not None and imitated_answer is not None and own_answer != imitated_answer:
                texts = (persona.system, question.text, own_answer, imitated_answer)
                pairs.append(dict(zip(HELD_OUT, texts, strict=True)))
    return pairs[: settings.held_out]


def _completions(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "completions.parquet")
