"""Memory of a step beside sums by hand, and beside what others have published of other stacks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_gateway.estimation.memory import Setup, step_memory
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.spec import TrainingSpec

BENCH = Path(__file__).resolve().parents[2] / "bench"
LLAMA_8B = ModelShape(
    model_type="llama", hidden_size=4096, layers=32, heads=32, kv_heads=8, head_dim=128,
    intermediate_size=14336, vocab_size=128256, tied=False, stored_bytes=2,
)  # fmt: skip
LLAMA_70B = LLAMA_8B.model_copy(
    update={"hidden_size": 8192, "layers": 80, "heads": 64, "intermediate_size": 28672}
)
LLAMA_7B = LLAMA_8B.model_copy(
    update={"kv_heads": 32, "intermediate_size": 11008, "vocab_size": 32000}
)


def gigabytes(shape: ModelShape, rows: int, length: int, **options: Any) -> float:
    setup = Setup.of(TrainingSpec(model="m", **options), "gpu", shape)
    return step_memory(shape, setup, rows, length).total / 1e9


@pytest.mark.parametrize(
    ("shape", "rows", "length", "options", "by_hand"),
    [
        # 68.5 billion weights of the maps at 0.516 bytes, 2.1 of embedding and head at 2; adapters
        # of rank 16, 207 million at 16 bytes; CUDA; the inputs of 80 layers, two bytes each; one
        # layer and what it leaves; 512 logits.
        (LLAMA_70B, 1, 2048, {"training_type": "qlora"},
         35.3 + 4.2 + 3.3 + 1.4 + 2.7 + 2 * 0.9 + 1.05),
        # 6.74 billion at 4 bytes and 2 of the copies, 4 of gradients, 2 of Adam in 8 bits.
        (LLAMA_7B, 1, 512, {"training_type": "full", "optim": "adamw_8bit"}, 6.74 * 12 + 2.2),
        # Both sides of a pair are there at once: 2 x 1,024 tokens.
        (LLAMA_8B, 1, 1024, {"method": "dpo"}, 16.06 + 0.67 + 1.4 + 0.54 + 1.05 + 0.48 + 0.24),
        # 32,768 tokens: 8.6 GB of inputs, a layer of 236 kB a token, and what it leaves.
        (LLAMA_8B, 1, 32768, {}, 16.06 + 0.67 + 1.4 + 8.6 + 2 * 7.7 + 1.05),
    ],
    ids=["QLoRA of 70B", "full with Adam in 8 bits", "DPO", "long rows"],
)  # fmt: skip
def test_memory_is_what_a_sum_by_hand_gives(
    shape: ModelShape, rows: int, length: int, options: dict[str, Any], by_hand: float
) -> None:
    assert gigabytes(shape, rows, length, **options) == pytest.approx(by_hand, rel=0.05)


def test_published_figures_of_any_stack_lie_in_the_range(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the terms of each: 95 % of those in sight, and of those that were compared afterwards.
    A stack without terms is ours, to the byte."""
    monkeypatch.syspath_prepend(str(BENCH))
    import published

    monkeypatch.setattr(sys, "argv", ["published.py"])
    assert published.main() == 0
    said = capsys.readouterr()
    assert '"memory (held back, ' in said.out and "Unsloth's longest rows" in said.err
    trained: list[dict[str, Any]] = [{}, {"training_type": "qlora"}, {"training_type": "full"}]
    for options in trained:
        setup = Setup.of(TrainingSpec.build(model="m", **options), "gpu", LLAMA_8B)
        ours = step_memory(LLAMA_8B, setup, 2, 2048).total
        assert published.stack_memory(LLAMA_8B, setup, published.Stack(), 2, 2048) == ours
