"""Asking many prompts of many models, and keeping the answers: what comparisons, checks and judges
are built on.

>>> how = AskHow(name="compare:cmp-3f9a2c1d", limit=Limit(Decimal(5)), words="held_out.jsonl")
>>> planned = plan(store, models, {model.key: prompts for model in models}, how)
>>> planned.left, planned.cost.high, planned.kept      # nothing has been sent
>>> asked = ask(planned)
>>> asked.answers[model.key, prompt.id, 0].text

``plan(store: Store, models: Sequence[EvaluatedModel], prompts: Mapping[str, Sequence[Prompt]],
how: AskHow) -> AskPlan``: what is left; ``prompts`` by the key of the model, as the data have them.

``ask(plan: AskPlan) -> AskResult``: asks that. Each wanted answer is in ``AskResult.answers``, by
the key of the model, the id of the row's prompt and the number of the sample: one that could not be
had with its ``error``. Call both again for the next round with the same ``AskHow.limit``.

``known(plan)``: the answers that are here already.
``require_free(plan)``: raises while another process asks one of the models.
``limit_of(store, name, usd) -> Limit``: one for all runs of a name, killed ones too.
``settle(settings, name) -> Decimal``: commit what killed runs have cost.
``spending(store, name, payers) -> Spending``: what all runs of a name have cost, by the model.
"""

from finetune_gateway.evaluation.answers.asking import AskResult, ask, known, require_free
from finetune_gateway.evaluation.answers.planning import AskHow, AskPlan, plan
from finetune_gateway.evaluation.answers.settling import limit_of, settle
from finetune_gateway.evaluation.answers.spending import Spending, spending
from finetune_gateway.evaluation.limits import Limit

__all__ = [
    "AskHow", "AskPlan", "AskResult", "Limit", "Spending", "ask", "known", "limit_of", "plan",
    "require_free", "settle", "spending",
]  # fmt: skip
