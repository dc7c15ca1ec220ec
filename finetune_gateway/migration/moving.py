"""Where a fine-tune could go: the same base at Azure while it can, this machine, other hosts.

Figures are those of ``estimate`` for the fetched training file; without it, a price for the tokens
that were trained. Bases other than its own are proposed: no measured equal of any is known.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway import registry
from finetune_gateway.backend import Backend
from finetune_gateway.backends.openai import wire
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.backends.openai.management import ModelFacts
from finetune_gateway.errors import BackendError, GatewayError, NotFoundError, SpecError
from finetune_gateway.estimation import profiles
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.profiles import LifeCycle, Profile
from finetune_gateway.jobs import fetched, planning
from finetune_gateway.jobs.fetched import Manifest
from finetune_gateway.jobs.job_files import Files
from finetune_gateway.migration import carrying, facts, listing, names
from finetune_gateway.migration.inventory import FineTune
from finetune_gateway.migration.key_lists import KeyLists, Seen
from finetune_gateway.migration.moves import Carried, MovePlan, Place
from finetune_gateway.settings import clock
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

# In reports of people who moved (2026): none was measured to be the equal of a hosted base.
LOCAL_MODELS = ("Qwen/Qwen3-4B", "meta-llama/Llama-3.1-8B-Instruct", "openai/gpt-oss-20b")
HOSTED_MODELS = {"crusoe": ("meta-llama/Llama-3.1-8B-Instruct",)}  # those with a price here
WEIGHTS = {
    "local": "yes: the adapter is a folder of files on this machine.",
    "azure": "no export of weights was found in any of Microsoft's texts.",
    "crusoe": "yes: LoRA checkpoints can be downloaded as files.",
}
NOT_KNOWN = "not known."


@dataclass(frozen=True)
class Source:
    """The fine-tune and the files that it can be trained from again."""

    one: FineTune
    train: Path | None  # where it lies, or will once it is fetched
    validation: Path | None
    is_fetched: bool
    where: tuple[str, ...] = ()  # the options of its host
    hosts: tuple[OpenAIBackend, ...] = ()  # it, with each key that saw it; empty if not fetched

    @property
    def fetch(self) -> str:
        """Return the command that saves its files."""
        return shlex.join(["ftg", "migrate", "fetch", self.one.name, *self.where])


def plan(
    model: str,
    backends: str | Backend | Sequence[str | Backend],
    *,
    local_models: Sequence[str],
    azure_url: str | None,
    azure_models: Sequence[ModelFacts] | None,
    home: str | os.PathLike[str] | None,
) -> MovePlan:
    """Return where a fine-tune could go. See ``migration.plan``."""
    settings = Settings.load(home)
    source = fetched_source(model, settings) or _at_host(model, backends, settings, home)
    today = clock.today()
    places = [
        *_hosted(source, settings, today, azure_url, azure_models),
        *(_place(source, "local", name, None, {}, settings, today) for name in local_models),
    ]
    return MovePlan(
        fine_tune=source.one,
        training_file=str(source.train) if source.train else None,
        validation_file=str(source.validation) if source.validation else None,
        fetched=source.is_fetched,
        places=tuple(places),
    )


# -- the fine-tune -----------------------------------------------------------------------------


def fetched_source(name: str, settings: Settings) -> Source | None:
    """Return a fine-tune from what was fetched of it: no host is asked, which may be gone."""
    for manifest in fetched.find(settings, name) or _ending(settings, name):
        path = fetched.find_piece(settings, manifest, "job")
        job = _read_job(path) if path else None
        if job is None:
            continue
        host = OpenAIBackend(base_url=manifest.base_url, profile=manifest.profile)
        seen = Seen(job=job, keys=[KeyLists(host)])
        one = facts.fine_tune(seen, seen.keys, settings, clock.today())
        train = fetched.find_piece(settings, manifest, "training")
        held_out = fetched.find_piece(settings, manifest, "validation")
        one = one.model_copy(update={"keys": manifest.keys})
        hosts = [
            OpenAIBackend(
                base_url=manifest.base_url, profile=manifest.profile, api_key_env=variable
            )
            for variable in manifest.keys or (None,)
        ]
        where, file = listing.options_of(hosts), train or _expected(settings, one)
        return Source(one, file, held_out, train is not None, where, tuple(hosts))
    return None


def _ending(settings: Settings, name: str) -> list[Manifest]:
    """Return what was fetched of the one fine-tune whose id ends so. Raises SpecError for two."""
    try:
        kept = [*fetched.manifests(settings)]
        return [names.one_named(name, kept, lambda one: one.names)]
    except NotFoundError:  # the host may have it
        return []


def _read_job(path: Path) -> wire.Json | None:
    """Return a job as it was fetched; None for what a power cut has damaged."""
    try:
        return wire.object_of(json.loads(path.read_text("utf-8"))) or None
    except (OSError, ValueError):
        return None


def _at_host(
    name: str,
    backends: str | Backend | Sequence[str | Backend],
    settings: Settings,
    home: str | os.PathLike[str] | None,
) -> Source:
    """Return a fine-tune as its host shows it. Raises NotFoundError for one that no key sees."""
    [one] = listing.list_fine_tunes(
        backends,
        models=name,
        admin=None,
        checkpoints=False,
        every=False,
        home=home,
        on_progress=lambda text: None,
    ).fine_tunes
    gone = one.training_file is None or one.training_file.state == "gone"
    held_out = one.validation_file is not None and one.validation_file.state == "there"
    return Source(
        one,
        None if gone else _expected(settings, one),
        _expected(settings, one, "validation") if held_out else None,
        is_fetched=False,
        where=listing.options_of(listing.hosts_of(backends, settings)),
    )


def _expected(settings: Settings, one: FineTune, name: str = "train") -> Path | None:
    """Return where a file of the fine-tune lies once it is fetched."""
    if one.job_id is None:
        return None
    return fetched.folder(settings, one.host, one.job_id) / f"{name}.jsonl"


# -- the places --------------------------------------------------------------------------------


def _hosted(
    source: Source,
    settings: Settings,
    today: date,
    azure_url: str | None,
    azure_models: Sequence[ModelFacts] | None,
) -> Iterator[Place]:
    """Yield the other hosts: Azure with the same base first."""
    base = source.one.base_model
    for name in ("azure", *(one for one in profiles.profile_names() if one != "azure")):
        if name in (source.one.profile, "custom", "openai"):
            continue
        if name == "azure" and base is not None:
            more = {"base_url": azure_url} if azure_url else {}
            place = _place(source, name, base, profiles.load_profile(name), more, settings, today)
            yield place if azure_models is None else _as_shown(place, base, azure_models, today)
            continue
        profile = profiles.load_profile(name)
        for model in HOSTED_MODELS.get(name, ()):
            yield _place(source, name, model, profile, {}, settings, today)
        if name not in HOSTED_MODELS:
            yield _unlisted(source, profile)


def _as_shown(place: Place, base: str, shown: Sequence[ModelFacts], today: date) -> Place:
    """Return Azure's place with what it shows this subscription of the base; refused if that says
    so. Its word for a state means one step more than it says: see ``management.STATES``."""
    names = (base, base.removesuffix(f"-{base[-10:]}"))
    found = [one for one in shown if f"{one.model}-{one.version}" == base or one.model == base]
    if not found:
        others = sum(one.model == names[1] for one in shown)
        versions = f"; {others} other versions of {names[1]} are" if others else ""
        text = f"{base} is not shown to your subscription in that region{versions}."
        return place.model_copy(update={"subscription": text})
    [one, *_] = found
    until = f", trained until {one.fine_tune_until}" if one.fine_tune_until else ""
    planned = f" ({one.planned})" if until and one.planned else ""
    text = f"shown to your subscription in that region: {one.state}{until}{planned}."
    update: dict[str, Any] = {"subscription": text}
    over = one.fine_tune_until is not None and one.fine_tune_until <= today
    if one.state == "retired" or one.fine_tunes is False or over:
        update |= {"refused": f"Azure trains it no more for your subscription: {text}"}
        update |= {"command": None, "before": ()}
    return place.model_copy(update=update)


def _unlisted(source: Source, profile: Profile) -> Place:
    """Return a host of which no list of bases is known here."""
    method = source.one.method or "sft"
    takes = ", ".join(sorted(profile.methods))
    refused = None if method in profile.methods else f"It trains by {takes}, not by {method}."
    return Place(
        backend=profile.name,
        title=profile.title,
        model=None,
        same_base=False,
        refused=refused,
        source=profile.source,
        data=_data(profile, None),
        weights=NOT_KNOWN,
        unknown=("Which bases it trains is not known here.",),
        notes=profile.notes[-1:],
    )


def _place(
    source: Source,
    name: str,
    model: str,
    profile: Profile | None,
    options: Mapping[str, Any],
    settings: Settings,
    today: date,
) -> Place:
    """Return one base at one place, with figures or the reason why it is refused."""
    one, method = source.one, source.one.method or "sft"
    backend = registry.load(name, dict(options))
    backend.bind(settings)
    limits = backend.capabilities(model)
    same = profile is not None and model == one.base_model
    carried = carrying.carried(one, limits, profile, same_base=same)
    life = profile.life_cycle(model) if profile else None
    place = Place(
        backend=name,
        title=profile.title if profile else "this machine",
        model=model,
        same_base=same,
        refused=_refusal(profile, limits.methods | limits.priced, model, method, today),
        only=life.only_for(today) if life else "",
        data=_data(profile, None),
        weights=WEIGHTS.get(name, NOT_KNOWN),
        settings=tuple(carried),
        **_dates(life),
    )
    if place.refused is None and source.train is None:
        place = place.model_copy(update={"refused": "The training file is gone from its host."})
    if place.refused is not None:
        return place
    return _with_figures(place, source, backend, method, carried, settings, today)


def _refusal(
    profile: Profile | None, methods: frozenset[str], model: str, method: str, today: date
) -> str | None:
    if profile is not None and (refusal := profile.refusal(model, method, today)):
        return refusal
    if profile is not None and profile.models and profile.model(model) is None:
        return f"{model} is not among the models known for {profile.title}."
    if method not in methods:
        return f"It trains by {', '.join(sorted(methods))}, not by {method}."
    return None


def _dates(life: LifeCycle | None) -> dict[str, Any]:
    if life is None:
        return {}
    return {
        "jobs_until": life.new_jobs_until,
        "jobs_at_least_until": life.new_jobs_at_least_until,
        "answers_until": life.retires_on,
        "source": f"{life.source} (as of {life.as_of})",
    }


def _data(profile: Profile | None, estimate: Estimate | None) -> str:
    """Return where the data go."""
    if profile is None:
        return "they stay on this machine."
    if estimate is not None and estimate.residency:
        return estimate.residency
    usual = profile.usual_training
    if usual:
        return f"by {usual} training, {profile.trainings[usual].data}"
    return f"they are sent to {profile.title}; where it keeps them is not known here."


# -- figures and the command -------------------------------------------------------------------


def _with_figures(
    place: Place,
    source: Source,
    backend: Backend,
    method: str,
    carried: list[Carried],
    settings: Settings,
    today: date,
) -> Place:
    update: dict[str, Any] = {}
    if source.is_fetched:
        given = {"model": place.model, "method": method, **carrying.options(carried)}
        try:
            spec = TrainingSpec.build(**given)
        except SpecError as exc:
            return place.model_copy(update={"refused": exc.message})
        update = _estimated(source, backend, spec, settings, today)
        if "refused" in update:
            return place.model_copy(update=update)
    else:
        update = _from_tokens(place, source, settings)
    url = backend.options().get("base_url")
    command = _command(place, source, backend, method, carried, url)
    before = [] if source.is_fetched else [source.fetch]
    notes = [*place.notes, *update.pop("notes", ())]
    if place.backend == "azure" and "RESOURCE" in " ".join(command):
        notes.append("RESOURCE is the name of your resource: --azure-url writes it in.")
    return place.model_copy(
        update={**update, "command": tuple(command), "before": tuple(before), "notes": tuple(notes)}
    )


def _estimated(
    source: Source, backend: Backend, spec: TrainingSpec, settings: Settings, today: date
) -> dict[str, Any]:
    """Return the figures of an estimate for the fetched file, or why a submit would refuse it."""
    files = Files.open(source.train or "", source.validation, settings.spool)
    files = files.split(None, spec.seed, settings.spool)  # as the submit does
    [option] = planning.side_by_side([(backend, spec)], _as_given, files)
    estimate = option.estimate
    if estimate is None:
        error = option.error or GatewayError("There is no estimate.")
        if isinstance(error, NotFoundError | BackendError):  # of a hub that cannot be asked now
            return {"unknown": (str(error),)}
        return {"refused": str(error)}
    if estimate.refused:
        reasons = [f"{why} (--allow-{name} starts it)" for name, why in estimate.refused.items()]
        return {"refused": " ".join(reasons), "fits": estimate.fits}
    cost, price = estimate.cost_usd, next(iter(estimate.prices), None)
    known = f"{price.usd} USD, {price.dated}, {price.source}" if price else ""
    profile = getattr(backend, "profile", None)
    return {
        "cost_usd": cost.expected if cost else None,
        "cost_high_usd": cost.high if cost else None,
        "cost_from": f"the training file; {known}" if known else "the training file",
        "seconds": estimate.seconds.expected if estimate.seconds else None,
        "fits": estimate.fits,
        "data": _data(profile, estimate),
        "unknown": tuple(estimate.unknown),
        "notes": _notes(estimate, profile, today),
    }


def _notes(estimate: Estimate, profile: Profile | None, today: date) -> tuple[str, ...]:
    """Return the warnings of an estimate without those that the place's own dates say."""
    if profile is None:
        return tuple(estimate.warnings)
    only = profile.life_cycle(estimate.model).only_for(today)
    said = {*profile.date_warnings(estimate.model, today), f"Only {only} can create jobs."}
    return tuple(text for text in estimate.warnings if text not in said)


def _as_given(backend: str | Backend) -> Backend:
    return registry.load(backend) if isinstance(backend, str) else backend


def _from_tokens(place: Place, source: Source, settings: Settings) -> dict[str, Any]:
    """Return a price for the tokens that were trained, as the host counted them."""
    unknown = ["Time and memory: fetch the training file."]
    if place.backend == "local":
        return {"unknown": tuple(unknown)}
    profile = profiles.load_profile(place.backend)
    cost = facts.training_cost(
        profile, place.model, source.one.method, source.one.trained_tokens, settings
    )
    if cost is None:
        return {"unknown": ("The cost: no price or no count of tokens is known.", *unknown)}
    usd: Decimal = cost.usd
    return {"cost_usd": usd, "cost_from": cost.source, "unknown": tuple(unknown)}


def _command(
    place: Place,
    source: Source,
    backend: Backend,
    method: str,
    carried: list[Carried],
    azure_url: str | None,
) -> list[str]:
    """Return the call of ftg that trains it there."""
    where = ["--backend", place.backend]
    if isinstance(backend, OpenAIBackend) and backend.profile.base_url is None:
        where += ["--base-url", azure_url or backend.profile.base_url_hint]
    held_out = ["--validation-file", str(source.validation)] if source.validation else []
    by = ["--method", method] if method != "sft" else []
    return [
        *("ftg", "submit", str(source.train), *where, "--model", place.model or ""),
        *by,
        *held_out,
        *carrying.words(carried),
    ]
