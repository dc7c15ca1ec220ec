"""Settings that one backend alone has, and those of ours that it cannot take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import AfterValidator, Field
from support.acme import Acme, AcmeParams, Grade
from support.cli import Ftg
from support.hostile import Honest
from support.plugins import installed

from finetune_gateway import BackendError, FakeBackend, Gateway, SpecError, UnsupportedError
from finetune_gateway.backend import BackendParams, Estimate, TrainingSpec
from finetune_gateway.backend.params import canonical
from finetune_gateway.backend.seam import name_of

GIVEN = {"warmup_steps": 10, "decay": 1, "grade": "fast", "layers": ["a", "b"]}


def submit(gateway: Gateway, data: Path, params: Mapping[str, Any] | None, **more: Any) -> Any:
    given = None if params is None else dict(params)
    backend = more.pop("backend", None) or Acme()
    return gateway.submit(data, model="m", backend=backend, backend_params=given, **more)


def test_they_arrive_typed_and_are_kept(home: Path, train_file: Path) -> None:
    """The backend reads them as fields of its class, in this process and from the store."""
    backend = Acme()
    job = submit(Gateway(home), train_file, GIVEN, backend=backend)
    read = backend.params_of[job.id]
    assert read == AcmeParams(warmup_steps=10, decay=1.0, grade=Grade.FAST, layers=["a", "b"])
    stored = Gateway(home).job(job.id)
    assert AcmeParams.of(stored.record.spec) == read
    assert stored.to_dict()["spec"]["backend_params"] == {**GIVEN, "decay": 1.0}


def test_they_are_part_of_what_makes_a_submit_the_same_one(home: Path, train_file: Path) -> None:
    """Other values make another job; a value written otherwise, or given at its default, none."""
    gateway, backend = Gateway(home), Acme()
    first = submit(gateway, train_file, {"decay": 1}, backend=backend)
    again = submit(gateway, train_file, {"decay": 1.0, "warmup_steps": 0}, backend=backend)
    assert again.id == first.id
    other = submit(gateway, train_file, {"decay": 2}, backend=backend)
    none = submit(gateway, train_file, None, backend=backend)
    assert submit(gateway, train_file, {}, backend=backend).id == none.id
    assert submit(gateway, train_file, {"decay": 0.5}, backend=backend).id == none.id
    assert len({first.id, other.id, none.id}) == 3 == len(backend.market.bought)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"warmup_step": 3}, "no setting 'warmup_step'. Did you mean warmup_steps?"),
        ({"warmup_steps": "ten"}, "warmup_steps must be a whole number, not 'ten'"),
        ({"warmup_steps": True}, "warmup_steps must be a whole number, not True"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, not -1"),
        ({"decay": "0.1"}, "decay must be a number, not '0.1'"),
        ({"decay": float("nan")}, "must be plain JSON"),
        ({"decay": object()}, "must be plain JSON"),
        ({"schedule": "step"}, "schedule must be 'linear' or 'cosine', not 'step'"),
        ({"grade": "faster"}, "grade must be 'slow' or 'fast', not 'faster'"),
        ({"layers": [1]}, "layers.0 must be text, not 1"),
        ({"note": "sk-proj-" + "Ab3" * 16}, "'note' holds a key or a password"),
        ({"api_key": "abcdefgh"}, "'api_key' holds a key or a password"),
        ("warmup_steps=3", "backend_params must be names with their values"),
    ],
)
def test_what_it_does_not_take_is_refused_in_words(
    home: Path, train_file: Path, params: Any, said: str
) -> None:
    """In an estimate and in a submit, before anything is stored or sent."""
    gateway, backend = Gateway(home), Acme()
    for verb in (gateway.estimate, gateway.submit):
        with pytest.raises(SpecError, match="backend_params") as error:
            verb(train_file, model="m", backend=backend, backend_params=params)
        assert said in str(error.value) and "sk-proj" not in str(error.value)
    assert not gateway.jobs() and not backend.market.files


def test_the_value_of_a_variable_with_a_key_is_refused(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it looks like: settings are stored and shown."""
    monkeypatch.setenv("ACME_API_KEY", "quiet-harbour-7")
    with pytest.raises(SpecError, match="'note' holds a key") as error:
        submit(Gateway(home), train_file, {"note": "run quiet-harbour-7"})
    assert "harbour" not in str(error.value)


def test_a_backend_without_any_refuses_all(home: Path, train_file: Path) -> None:
    """Ours too: the error names the backend and the settings."""
    for backend in (FakeBackend(), "local", "openai"):
        with pytest.raises(UnsupportedError, match="backend_params: warmup_steps") as error:
            Gateway(home).estimate(
                train_file, model="m", backend=backend, backend_params={"warmup_steps": 3}
            )
        assert error.value.option == "backend_params"


def test_a_class_of_settings_that_is_none_is_named(home: Path, train_file: Path) -> None:
    """It is the author's mistake, not the user's."""
    kind: Any = type("Odd", (Acme,), {"params": {"warmup_steps": int}, "__module__": "ftg_odd"})
    with pytest.raises(BackendError, match="params of backend 'acme' must be a class") as error:
        submit(Gateway(home), train_file, {"warmup_steps": 3}, backend=kind())
    assert "ftg_odd" in error.value.hint and name_of(kind()) == "acme"


@pytest.mark.parametrize(
    ("name", "value"), [("suffix", "v2"), ("seed", 7), ("n_epochs", 2), ("metadata", {"a": "b"})]
)
def test_a_setting_that_it_cannot_take_is_refused(
    home: Path, train_file: Path, name: str, value: Any
) -> None:
    """Never replaced or dropped: nothing is sent, and no job is there."""
    gateway, backend = Gateway(home), Acme()
    with pytest.raises(UnsupportedError, match=f"'acme' does not take {name}") as error:
        gateway.submit(train_file, model="m", backend=backend, **{name: value})
    assert error.value.option == name
    assert not gateway.jobs() and not backend.market.files
    gateway.submit(train_file, model="m", backend=backend, n_epochs="auto", seed=None)


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-in, installed under its name."""
    installed(tmp_path / "site", "support.acme:Acme")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("acme")
def test_the_command_line_gives_and_shows_them(ftg: Ftg, train_file: Path, home: Path) -> None:
    """``--backend-param`` reads JSON where it is JSON; ``ftg backends NAME`` says which there are,
    the plan and ``ftg status`` what was given."""
    shown = ftg("backends", "acme").stdout
    assert "does not take: metadata, n_epochs, seed, suffix" in " ".join(shown.split())
    assert "warmup_steps: a whole number of at least 0; default 0. Steps of warm-up" in shown
    document = json.loads(ftg("backends", "acme", "--json").stdout)
    assert [one["name"] for one in document["params"]] == [*AcmeParams.model_fields]
    words = (str(train_file), "--model", "m", "--backend", "acme")
    given = ("--backend-param", "warmup-steps=10", "--backend-param", "note=after lunch")
    estimate = ftg("estimate", *words, *given)
    assert estimate.returncode == 0, estimate.stderr
    sent = ftg("submit", *words, *given, "--yes")
    assert sent.returncode == 0, sent.stderr
    plan = " ".join(sent.stderr.split())
    assert 'Settings of acme: warmup_steps=10, note="after lunch"' in plan
    status = ftg("status", sent.stdout.strip())
    assert 'own settings  warmup_steps=10, note="after lunch"' in status.stdout
    [job] = Gateway(home).jobs()
    assert job.record.spec.backend_params == {"warmup_steps": 10, "note": "after lunch"}


@pytest.mark.usefixtures("acme")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("warmup_steps",), "is not NAME=VALUE"),
        (("warmup_steps=1", "warmup-steps=2"), "warmup_steps is given twice"),
        (("warmup_step=1",), "Did you mean warmup_steps?"),
        (("warmup_steps=many",), "must be a whole number, not 'many'"),
    ],
)
def test_wrong_ones_on_the_command_line(
    ftg: Ftg, train_file: Path, words: tuple[str, ...], said: str
) -> None:
    """Exit 2, in words."""
    given = [part for word in words for part in ("--backend-param", word)]
    done = ftg("submit", str(train_file), "--model", "m", "--backend", "acme", "--yes", *given)
    assert done.returncode == 2 and said in " ".join(done.stderr.split())


def test_a_spec_without_them_is_what_it_was(home: Path) -> None:
    """Jobs of older stores have no such field, and are found again by an equal submit."""
    spec = TrainingSpec(model="m")
    assert "backend_params" not in spec.canonical()


class Even(FakeBackend):
    """Refuses in its estimate, for a reason that no option allows."""

    name = "even"

    def estimate(self, *args: Any, **given: Any) -> Estimate:
        refused = {"parity": "even takes an even count of rows."}
        return super().estimate(*args, **given).model_copy(update={"refused": refused})


def test_a_refusal_of_its_own_names_no_option_that_is_not_there(
    home: Path, train_file: Path
) -> None:
    """Submit says its sentence, and no --allow-parity; the estimate has it too."""
    gateway = Gateway(home)
    assert gateway.estimate(train_file, model="m", backend=Even()).refused.keys() == {"parity"}
    with pytest.raises(SpecError, match="even count of rows") as caught:
        gateway.submit(train_file, model="m", backend=Even())
    assert "allow" not in str(caught.value) and gateway.jobs() == []


class Named(BackendParams):
    layers: frozenset[str] = frozenset()
    again: Annotated[str, AfterValidator(lambda text: f"{text}!")] = ""
    unsaid: Annotated[int, Field(exclude=True)] = 0


class Naming(Honest):
    params: ClassVar[type[BackendParams] | None] = Named


def test_a_set_is_the_same_in_each_process(home: Path, train_file: Path) -> None:
    """Python gives its texts in another order in each: an equal submit was another job."""
    names = [f"layer-{n}" for n in range(9)]
    job = submit(Gateway(home), train_file, {"layers": names}, backend=Naming())
    assert job.record.spec.backend_params == {"layers": names}
    assert canonical(job.record.spec, Naming())["backend_params"] == {"layers": names}


@pytest.mark.parametrize("given", [{"again": "a"}, {"unsaid": 1}])
def test_settings_that_do_not_come_back_from_the_store_buy_nothing(
    home: Path, train_file: Path, given: dict[str, Any]
) -> None:
    """The job would be trained with others than the user has given."""
    backend = Naming()
    with pytest.raises(BackendError, match="not the same when they come from the store"):
        submit(Gateway(home), train_file, given, backend=backend)
    assert backend.market.bought == [] and Gateway(home).jobs() == []
