"""FLOPs and bytes that a part needs at least: what its share of the device's ceilings is taken of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flatprobe.activations.record import decoder_blocks

VALUE_BYTES = 2  # of a key or a value in bfloat16


@dataclass(frozen=True)
class Size:
    """What a model's cost follows from."""

    blocks: int
    block_weights: int
    """Of one block, without adapters."""
    head_weights: int
    hidden: int
    cached: int
    """Bytes of one token's keys and values in all blocks."""

    @classmethod
    def of(cls, model: Any) -> Size:
        """Read before any adapter is attached."""
        config = model.config.get_text_config()
        blocks = decoder_blocks(model.get_decoder())
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            blocks=len(blocks),
            block_weights=sum(weights.numel() for weights in blocks[0].parameters()),
            head_weights=model.get_output_embeddings().weight.numel(),
            hidden=config.num_attention_heads * head_size,
            cached=2 * len(blocks) * config.num_key_value_heads * head_size * VALUE_BYTES,
        )

    @property
    def weight_bytes(self) -> int:
        """Of all that a token is multiplied with."""
        return VALUE_BYTES * (self.blocks * self.block_weights + self.head_weights)

    def training(self, lengths: Iterable[int], supervised: int, adapter: int) -> float:
        """FLOPs of a step on rows of these lengths, forward and back, with frozen weights.

        Args:
            supervised: tokens whose logits are computed.
            adapter: trained weights; these cost three products a token, frozen ones two.
        """
        lengths = list(lengths)
        tokens = sum(lengths)
        attention = self.blocks * 4.0 * self.hidden * sum(n * (n + 1) / 2 for n in lengths)
        frozen = 2.0 * self.blocks * self.block_weights * tokens
        return (
            2 * frozen + 3 * attention + 3 * 2.0 * adapter * tokens + 2 * 2.0 * self.head_weights * supervised
        )

    def decoding(self, prompts: Iterable[int], new: int, adapter: int) -> tuple[float, float]:
        """FLOPs and bytes of `new` tokens behind each prompt, all rows side by side; the prompts' own are left out."""
        prompts = list(prompts)
        seen = sum(
            new * n + new * (new + 1) / 2 for n in prompts
        )  # pairs of a new token and one that it sees
        weights = self.blocks * self.block_weights + self.head_weights + adapter
        flops = 2.0 * weights * new * len(prompts) + self.blocks * 4.0 * self.hidden * seen
        return flops, new * (self.weight_bytes + 4.0 * adapter) + self.cached * seen
