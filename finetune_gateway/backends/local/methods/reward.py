"""A reward model from preference pairs, from top to bottom: load, format, configure, train, save.

Its head gives one score r for a whole conversation, read at the last token. A pair loses
-log sigmoid(r(chosen) - r(rejected)): the chosen answer wins as Bradley and Terry (1952) model it
(Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

from finetune_gateway.backends.local import engine as engines
from finetune_gateway.backends.local import finishing
from finetune_gateway.backends.local.configuration import training_arguments
from finetune_gateway.backends.local.encoding import encode_rows
from finetune_gateway.backends.local.loading import Base, load_base, max_length_for
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.start import begin, restore

# TRL's RewardConfig; all weights need a tenth of the rate of LoRA (TRL, peft_integration.md).
LEARNING_RATE = {"lora": 1e-4, "qlora": 1e-4, "full": 1e-5}


def train_and_save(run: Run) -> None:
    """Train the base model with a head for scores; save an adapter, or for full fine-tuning the
    whole model."""
    spec = run.spec
    kind = spec.training_type or "lora"

    # -- load: the base model with a new head, its chat template and tokenizer; the adapter on it
    base = load_base(run)
    model = begin(run, base.model)

    # -- format: rows -> chosen_ids (n,) and rejected_ids (m,): whole conversations
    run.phase("reading the data")
    max_length = max_length_for(run, base.model)
    train_rows = encode_rows(run, run.train, base.template, max_length)
    held_out = run.validation
    valid_rows = encode_rows(run, held_out, base.template, max_length) if held_out else None
    pad = padding_token(base, train_rows.rows["chosen_ids"], train_rows.rows["rejected_ids"])
    base.tokenizer.pad_token = pad

    # -- configure: names as in Hugging Face's libraries
    engine = engines.choose(run, base, model, train_rows.rows)
    plan = engine.plan(spec, train_rows, valid_rows)
    arguments = training_arguments(
        run,
        plan,
        learning_rate=LEARNING_RATE[kind],
        held_out=valid_rows is not None,
        bf16=engine.bf16,
    )
    progress = finishing.progress_of(run, base, neutral=math.log(2))
    # Imported here: TRL takes eight seconds.
    from finetune_gateway.backends.local import trl_trainers

    trainer = trl_trainers.reward_trainer(
        spec,
        model,
        base.tokenizer,
        arguments,
        train_rows.rows,
        valid_rows.rows if valid_rows else None,
        progress,
    )
    if base.quantization:
        restore(run, model)  # TRL has rounded it to bf16

    # -- train: from the newest complete checkpoint, if an earlier worker has left one
    finishing.train_to_the_end(run, trainer)

    # -- save: the adapter with its head (or the whole model), tokenizer and template
    finishing.save(run, trainer, base, engine.warnings)


def padding_token(base: Base, *sides: Sequence[list[int]]) -> str:
    """Return the token that fills up a batch. The head reads the last token that is another one.

    It is the one that the base names, since whatever loads the result goes by that. Where a base
    names none, one conversation is read up to its last token: so it is one that ends no row here.
    """
    tokenizer: Any = base.tokenizer
    named = base.model.config.get_text_config().pad_token_id
    if named is not None and 0 <= named < len(tokenizer):
        return str(tokenizer.convert_ids_to_tokens(named))
    ends = {ids[-1] for ids in chain(*sides)} | set(base.template.stop_ids)
    usual = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id]
    candidates = [*usual, *tokenizer.all_special_ids, *range(len(tokenizer))]
    chosen = next(one for one in candidates if one is not None and one not in ends)
    return str(tokenizer.convert_ids_to_tokens(chosen))
