from dataclasses import dataclass
from enum import Enum


class RequestOutputKind(Enum):
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    temperature: float
    max_tokens: int
    output_kind: RequestOutputKind
    detokenize: bool
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        assert not self.detokenize
        assert self.seed is None or 0 <= self.seed < 2**63
