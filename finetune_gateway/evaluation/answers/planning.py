"""What is left to ask of several models, what that costs and what it shows to hosts. Sends
nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from finetune_gateway.errors import BudgetError, SpecError, shown
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.evaluation import gate
from finetune_gateway.evaluation.answers.store import KeptAnswers, is_kept, key_of
from finetune_gateway.evaluation.asking import AT_ONCE, MAX_TOKENS, OnWait, Question
from finetune_gateway.evaluation.bounds import require_whole
from finetune_gateway.evaluation.costing import Costing
from finetune_gateway.evaluation.limits import Limit
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.evaluation.results import AnswerKey
from finetune_gateway.evaluation.steps import MOST_AT_ONCE
from finetune_gateway.evaluation.work import require_within
from finetune_gateway.jobs.budget import ZERO
from finetune_gateway.jobs.requests import State
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings import config
from finetune_gateway.text.cleaning import visible

Json = dict[str, Any]
OnProgress = Callable[[int, int, str], object]  # requests that are done, all of them, the model
PARAMETERS: Json = {"temperature": 0, "max_tokens": MAX_TOKENS}


@dataclass(frozen=True)
class AskHow:
    """How models are asked.

    ``name``: of the charges, like ``compare:cmp-3f9a2c1d``; what was refused under another name is
    asked again. ``parameters``: sent with each request, ``max_tokens`` among them; each sample has
    a seed of its own, if they have one. ``words``: where the prompts are from. ``limit``: shared by
    all calls that have the same. ``monthly_usd``: the cap of the month, by default of the home.
    ``at_once``: requests on their way to one host.
    """

    name: str
    parameters: Json = field(default_factory=lambda: dict(PARAMETERS))
    samples: int = 1
    words: str = "the rows"
    limit: Limit = field(default_factory=lambda: Limit(None))
    monthly_usd: Decimal | None = None
    at_once: int = AT_ONCE
    allow_pii: bool = False
    allow_secrets: bool = False
    on_progress: OnProgress | None = None
    on_wait: OnWait | None = None

    def check(self) -> None:
        """Raise SpecError for numbers that no host takes."""
        bounds = {"samples": (1, 100), "at_once": (1, MOST_AT_ONCE)}
        require_whole(self, bounds)
        most_tokens = self.parameters.get("max_tokens")
        if not (type(most_tokens) is int and most_tokens > 0):
            raise SpecError(
                f"max_tokens cannot be {shown(most_tokens)}.", hint="Give a whole number above 0."
            )


@dataclass(frozen=True)
class Target:
    """All that is wanted of one model, which may have several names in a comparison.

    ``wanted``: the id of the request for each answer; ``questions`` and ``prompts``: by that id, as
    they are sent. ``kept``: where the answers are kept; None if they are not. ``state``: what has
    become of the requests. ``costing``: of a hosted model.
    """

    models: tuple[EvaluatedModel, ...]
    wanted: dict[AnswerKey, str]
    questions: dict[str, Question]
    prompts: dict[str, Prompt]
    kept: KeptAnswers | None
    state: State = field(default_factory=State)
    costing: Costing | None = None

    @property
    def model(self) -> EvaluatedModel:
        """The first of its names: it answers for all."""
        return self.models[0]

    @property
    def left(self) -> list[str]:
        """The ids of the requests that have to be sent."""
        if self.model.kind == "recorded":
            return []
        return [key for key in self.questions if key not in self.state.done]

    @property
    def again(self) -> int:
        """Requests that were in flight when an earlier process died, and are wanted."""
        return len(self.state.in_flight & self.questions.keys())

    @property
    def cost(self) -> Range[Decimal] | None:
        """What is left costs; None if no price is known."""
        asked = [(self.prompts[key], 1) for key in self.left]
        return self.costing.cost(asked) if self.costing else None

    def left_of(self, key: str) -> list[str]:
        """Return the requests that are left of one name: those that no earlier name wants too."""
        first = dict[str, str]()
        for (name, _, _), request in self.wanted.items():
            first.setdefault(request, name)
        return [request for request in self.left if first[request] == key]

    def refreshed(self, run: str) -> Target:
        """Return it with what has become of its requests by now."""
        return replace(self, state=self.kept.state(run)) if self.kept else self


@dataclass(frozen=True)
class AskPlan:
    """What ``ask`` would do. ``cap``: of the month, in USD. ``allowed``: the private data that a
    host gets to see, each kind and how often. ``notes``: what a person should know before."""

    store: Store
    how: AskHow
    targets: tuple[Target, ...]
    cap: Decimal | None
    allowed: dict[str, int]
    notes: tuple[str, ...]

    @property
    def left(self) -> dict[str, int]:
        """How many requests would be sent, by the key of the model."""
        return {
            model.key: len(target.left_of(model.key))
            for target in self.targets
            for model in target.models
        }

    @property
    def kept(self) -> int:
        """How many requests have an answer here already."""
        return sum(len(one.state.answered & one.questions.keys()) for one in self.targets)

    @property
    def again(self) -> int:
        """How many requests were in flight when an earlier process died."""
        return sum(target.again for target in self.targets)

    @property
    def hosted(self) -> list[Target]:
        """Those of a host of which something is left."""
        return [one for one in self.targets if one.costing is not None and one.left]

    @property
    def at_plugins(self) -> list[Target]:
        """Those at hosts of plug-ins of which something is left: no price is known."""
        return [one for one in self.targets if one.model.at_plugin and one.left]

    @property
    def sends(self) -> bool:
        """True if something goes to a host."""
        return bool(self.hosted or self.at_plugins)

    @property
    def costs(self) -> dict[str, Range[Decimal] | None]:
        """What is left costs, by the key of each hosted model; None: no price is known."""
        return {
            model.key: target.costing.cost(
                [(target.prompts[key], 1) for key in target.left_of(model.key)]
            )
            for target in self.targets
            if target.costing is not None
            for model in target.models
        }

    @property
    def cost(self) -> Range[Decimal] | None:
        """What is left costs in all; None if a price is not known."""
        return total(target.cost for target in (*self.hosted, *self.at_plugins))

    @property
    def unpriced(self) -> set[str]:
        """The keys of hosted models of which no price is known: what they cost cannot be told."""
        return {
            model.key
            for target in self.targets
            if not (target.costing.prices.known if target.costing else not target.model.at_plugin)
            for model in target.models
        }

    @property
    def add_price(self) -> dict[str, str]:
        """The command that adds a missing price, by the key of each hosted model without one."""
        return {
            model.key: target.costing.prices.add
            for target in self.targets
            if target.costing is not None and target.costing.prices.add
            for model in target.models
        }

    @property
    def prices(self) -> dict[str, tuple[Price, ...]]:
        """The price rows of each hosted model, by its key."""
        return {
            model.key: target.costing.prices.rows
            for target in self.targets
            if target.costing is not None
            for model in target.models
        }

    def require_priced(self) -> None:
        """Raise BudgetError if there is a limit or a cap and the price of a model is not known."""
        for target in (*self.hosted, *self.at_plugins):
            if target.cost is None:
                require_priced(target, self.how.limit.usd, self.cap)

    def require_within(self) -> None:
        """Raise BudgetError if the limit is below even the low estimate, or if there is a limit or
        a cap and the price of a model is not known. Where something was asked under the limit
        already, what does not fit is not asked: that is no error."""
        limit = self.how.limit
        self.require_priced()
        if self.hosted and (cost := self.cost) is not None and not limit.begun:
            require_within(cost, limit.usd, self.cap, limit.spent, model="", what="the comparison")


def require_priced(target: Target, limit: Decimal | None, cap: Decimal | None) -> None:
    """Raise BudgetError for a model without a price if there is a limit or a cap."""
    model, add = target.model, target.costing.prices.add if target.costing else ""
    try:
        require_within(None, limit, cap, ZERO, model=model.model, what="all", add=add)
    except BudgetError as exc:
        if model.at_plugin:
            what = "--max-cost" if limit is not None else "the budget of the month"
            exc.hint = (
                f"{visible(model.host or '')} is a plug-in, whose prices for answers nobody here "
                f"knows. Leave out {what}, or this model."
            )
        raise


def total(costs: Iterable[Range[Decimal] | None]) -> Range[Decimal] | None:
    """Return the sum of these; None if one of them is not known."""
    sums = Range[Decimal](low=ZERO, expected=ZERO, high=ZERO)
    for cost in costs:
        if cost is None:
            return None
        sums = Range[Decimal](
            low=sums.low + cost.low,
            expected=sums.expected + cost.expected,
            high=sums.high + cost.high,
        )
    return sums


def plan(
    store: Store,
    models: Sequence[EvaluatedModel],
    prompts: Mapping[str, Sequence[Prompt]],
    how: AskHow,
) -> AskPlan:
    """Return what is left to ask. ``prompts``: by the key of the model, as the data have them; each
    model is asked in its own way.

    Raises SpecError for numbers that no host takes, PrivateDataError for what may not be sent,
    BudgetError where there is a limit and a cost that cannot be told. Sends nothing.
    """
    how.check()
    cap = config.current_value(store.settings, "budget.monthly_usd", how.monthly_usd).usd
    targets = [_target(store, group, prompts, how) for group in _groups(models)]
    allowed: dict[str, int] = {}
    known: gate.Known = {}
    for target in targets:
        sent = [target.prompts[key] for key in target.left]
        if target.model.host is None or not sent:  # it stays on this machine
            continue
        if target.costing is not None and (how.limit.usd is not None or cap is not None):
            gate.require_counted(sent)
        found = gate.require_allowed(
            sent, how.words, target.model.host, store.settings,
            pii=how.allow_pii, secrets=how.allow_secrets, known=known,
        )  # fmt: skip
        allowed |= {kind: max(count, allowed.get(kind, 0)) for kind, count in found.items()}
    return AskPlan(store, how, tuple(targets), cap, allowed, tuple(_notes(targets)))


def _groups(models: Sequence[EvaluatedModel]) -> list[list[EvaluatedModel]]:
    """Return the models in groups of one and the same: their answers are kept together."""
    groups: dict[str, list[EvaluatedModel]] = {}
    for model in models:
        name = model.fingerprint if is_kept(model) else f"key {model.key}"
        groups.setdefault(name, []).append(model)
    return [*groups.values()]


def _target(
    store: Store,
    models: Sequence[EvaluatedModel],
    prompts: Mapping[str, Sequence[Prompt]],
    how: AskHow,
) -> Target:
    wanted: dict[AnswerKey, str] = {}
    questions: dict[str, Question] = {}
    framed: dict[str, Prompt] = {}
    for sample in range(how.samples):
        parameters = _parameters(how.parameters, sample)
        for model in models:
            for prompt in prompts.get(model.key, ()):
                asked = model.framed(prompt)
                key = key_of(asked, how.parameters, sample)
                wanted[model.key, prompt.id, sample] = key
                framed[key] = asked
                questions[key] = Question(key, {**asked.asked, **parameters})
    model = models[0]
    kept = KeptAnswers(store, model.fingerprint) if is_kept(model) else None
    state = kept.state(how.name) if kept else State()
    costing = None
    if model.kind == "hosted" and model.backend is not None:
        most, extra = int(how.parameters["max_tokens"]), store.settings.prices
        costing = Costing.of(model.backend.profile, model.model, model.base_model, most, extra)
    return Target(tuple(models), wanted, questions, framed, kept, state, costing)


def _parameters(parameters: Json, sample: int) -> Json:
    """Return the parameters of the n-th sample, without those that are left to the model."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return {**given, "seed": given["seed"] + sample} if "seed" in given else given


def _notes(targets: Sequence[Target]) -> Iterator[str]:
    for target in targets:
        left = [target.prompts[key] for key in target.left]
        if target.costing is not None and (types := gate.uncounted(left)):
            yield (
                f"The price of {target.model.title} is without parts of type {types}: what they "
                "cost cannot be told."
            )
        if target.left and target.model.at_plugin:
            yield (
                f"What {target.model.title} costs at {visible(target.model.host or '')} is not "
                "known: it is the host of a plug-in."
            )
        if target.left and target.kept is None:
            yield (
                f"What {target.model.title} answers is not kept for the next comparison: what it "
                "is made of cannot be told."
            )
