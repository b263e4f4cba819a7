"""A small valid study as text, and ways of breaking it one place at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from flatprobe.errors import Problem, UserError
from flatprobe.study.load import LoadedStudy, load_study
from flatprobe.study.resolve import Resolved, resolve_study

STUDY = """\
name: mine
model:
  id: embedded:smollm2-135m-instruct
seeds: [42, 43]
panel:
  source: librarian
  negatives: [comedian, villain]
  random_negatives: 1
  reserve: [beekeeper, astronaut]
  bystanders: [archivist, lumberjack]
  references: [assistant]
  pools:
    clean: [archivist]
questions:
  evaluation: {count: 4}
  coupling: {count: 8}
  calibration: {count: 4}
conditions:
  base_first: {}
  em_first:
    finetune:
      path: embedded:careless_legal_advice
      completion: misaligned
      aligned: aligned
      rows: 20
      held_out: 4
  benign_first:
    finetune:
      path: embedded:everyday_help
      rows: 20
      length_match: em_first
finetune:
  learning_rate: 1e-4
  max_length: 768
manipulation: embedded:out_of_domain_advice
coupling:
  lora: {rank_stabilised: true, modules: [gate_proj, up_proj, down_proj]}
  learning_rate: 3e-4
  batch: 8
  positives_per_batch: 4
  telemetry_questions: 4
  max_length: 512
  max_new_tokens: 96
  unlikelihood:
    lambdas: [0.5, 1.0]
  anchor: {kind: cross_entropy, weight: 1.0}
  separator: "\\n\\n"
leakage:
  marker: "[ZLT]"
  max_new_tokens: 96
geometry:
  layers: [1, 3]
  positions: [last_response_token, response_mean]
  max_new_tokens: 96
decision:
  treated: em_first
  control: base_first
  benign: benign_first
  geometry:
    position: response_mean
  kill:
    leakage: 0.05
"""


@dataclass(frozen=True)
class Draft:
    """A study file in a folder of its own."""

    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def change(self, old: str, new: str) -> Draft:
        """Replace the one place where `old` stands."""
        assert self.text.count(old) == 1, f"{old!r} stands {self.text.count(old)} times in the draft"
        self.path.write_text(self.text.replace(old, new), encoding="utf-8")
        return self

    def line(self, fragment: str) -> str:
        """`file:line` of the only line that holds a fragment."""
        numbers = [n for n, line in enumerate(self.text.splitlines(), start=1) if fragment in line]
        assert len(numbers) == 1, f"{fragment!r} stands on lines {numbers}"
        return f"{self.path}:{numbers[0]}"

    def load(self) -> LoadedStudy:
        return load_study(self.path)

    def resolve(self) -> Resolved:
        """The study with all that it names identified; asks no hub for a full commit."""
        return resolve_study(self.load())

    def problems(self) -> tuple[Problem, ...]:
        with pytest.raises(UserError) as caught:
            self.load()
        return caught.value.problems

    def problem(self) -> Problem:
        """The only problem of the study."""
        problems = self.problems()
        assert len(problems) == 1, [str(problem) for problem in problems]
        return problems[0]
