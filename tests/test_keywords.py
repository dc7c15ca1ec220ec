"""The keywords of the verbs: typed, the same in Gateway and api, refused in plain words."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import pytest
from support.cli import Ftg

import finetune_gateway as gateway
import finetune_gateway.gateway
from finetune_gateway import (
    FakeBackend,
    Gateway,
    NotFoundError,
    SpecError,
    aio,
    api,
    errors,
    evaluations,
    keywords,
    spec,
)
from finetune_gateway.evaluation import checks, comparing
from finetune_gateway.migration import running
from finetune_gateway.spec import HasId, TrainingOptions, TrainingSpec

ROOT = Path(__file__).resolve().parents[1]
MINI = "gpt-4.1-mini-2025-04-14"
Call = Callable[..., Any]

# -- types -------------------------------------------------------------------------------

# Options whose keyword takes more than the field keeps.
WIDER: dict[str, set[Any]] = {
    "method": {"supervised"},
    "continue_from": {HasId},
    "target_modules": {list[str]},
    "modules_to_save": {str, list[str]},
}


def test_the_options_are_the_fields_of_the_spec() -> None:
    """TrainingOptions has every field of TrainingSpec but the model, in its order and types."""
    options = get_type_hints(TrainingOptions)
    fields = get_type_hints(TrainingSpec)
    fields = {name: fields[name] for name in TrainingSpec.model_fields if name != "model"}
    assert list(options) == list(fields)
    for name, type_ in options.items():
        more = WIDER.get(name, set())
        assert _arms(type_) == _arms(fields[name]) | more, name


def _arms(type_: Any) -> set[Any]:
    """The types of a union, and the values of a Literal."""
    if isinstance(type_, type) or not get_args(type_):
        return {type_}
    if type_.__class__ is type(Literal["a"]):
        return set(get_args(type_))
    if type_.__class__ is type(tuple[str]):
        return {type_}
    return {arm for one in get_args(type_) for arm in _arms(one)}


VERBS: dict[str, Any] = {
    "advise": keywords.AdviseOptions,
    "compare": keywords.CompareOptions,
    "migrate": keywords.MigrateOptions,
    "validate": keywords.ValidateOptions,
    "preview": keywords.PreviewOptions,
    "estimate": keywords.PlanOptions,
    "submit": keywords.SubmitOptions,
}
# What annotations name that only a type checker imports.
NAMES = {name: getattr(gateway, name) for name in gateway.__all__}
NAMES |= {one.__name__: one for one in (checks.Guide, comparing.ComparePlan, running.MigrationPlan)}
NAMES |= vars(evaluations) | vars(keywords) | vars(finetune_gateway.gateway)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_the_same_as_a_function_and_as_a_method(name: str) -> None:
    """Names, defaults, annotations and docstrings; what the type checker reads of both agrees."""
    function, method = getattr(api, name), getattr(Gateway, name)
    shown, own = inspect.signature(function), inspect.signature(method)
    assert list(own.parameters.values())[1:] == list(shown.parameters.values())
    assert inspect.getdoc(function) == inspect.getdoc(method)
    typed = get_type_hints(VERBS[name], localns=NAMES)
    for key, type_ in get_type_hints(method.__wrapped__, NAMES).items():
        if key in typed:
            assert typed[key] == type_, key
    first = {one.name for one in shown.parameters.values() if one.kind is not one.KEYWORD_ONLY}
    others = {"model"} | ({"backend"} if name == "estimate" else set())
    assert set(shown.parameters) == set(typed) | first | (others & set(shown.parameters))


@pytest.mark.parametrize("name", [*VERBS, "plan", "options", "job", "jobs", "budget", "costs"])
def test_the_source_of_a_function_begins_as_its_method_does(name: str) -> None:
    """An editor reads the docstring in the source: its first sentences are the method's."""
    source = ast.parse((ROOT / "finetune_gateway" / "api.py").read_text("utf-8"))
    called = {"job": "get_job", "jobs": "list_jobs"}.get(name, name)
    docs = [
        ast.get_docstring(node)
        for node in source.body
        if isinstance(node, ast.FunctionDef) and node.name == called and node.decorator_list
    ]
    paragraph = (inspect.getdoc(getattr(Gateway, name)) or "").split("\n\n")[0]
    assert all(" ".join(paragraph.split()).startswith(" ".join(doc.split())) for doc in docs if doc)


@pytest.mark.parametrize("name", ["validate", "preview", "estimate", "plan", "options", "submit"])
def test_help_says_what_each_keyword_is(name: str) -> None:
    """A line on every keyword, and what is raised; names and defaults in the signature."""
    method = getattr(Gateway, name)
    doc = inspect.getdoc(method) or ""
    for key in list(inspect.signature(method).parameters)[1:]:
        assert re.search(rf"^    {key}: \S", doc, re.MULTILINE), key
    assert "raise" in doc.lower()
    assert "**" not in str(inspect.signature(method))


# -- unknown keywords --------------------------------------------------------------------

MEANT = {
    "lorar": "lora_r",
    "epochs": "n_epochs",
    "num_train_epochs": "n_epochs",
    "lr": "learning_rate",
    "r": "lora_r",
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "validation_file": "validation",
    "eval_dataset": "validation",
    "training_file": "data",
    "train_dataset": "data",
    "max_cost": "max_cost_usd",
    "max_seq_length": "max_length",
    "per_device_train_batch_size": "batch_size",
    "alow_pii": "allow_pii",
}


@pytest.mark.parametrize("name", MEANT)
def test_an_unknown_keyword_is_answered_with_the_one_that_was_meant(name: str, home: Path) -> None:
    """As a function and as a method, before any file is opened."""
    verbs: list[Call] = [gateway.submit, Gateway().submit]
    for submit in verbs:
        with pytest.raises(SpecError) as caught:
            submit("none.jsonl", model="m", **{name: 1})
        assert caught.value.message == f"submit has no setting {name!r}."
        assert caught.value.hint == f"Did you mean {MEANT[name]}?"


def test_every_verb_answers_so(home: Path) -> None:
    """Each names its own keywords; a keyword in place of a needed one is answered too."""
    call: list[tuple[Call, str, str]] = [
        (gateway.validate, "mehtod", "Did you mean method?"),
        (gateway.preview, "max_seq_length", "Did you mean max_length?"),
        (gateway.preview, "seed", "It takes: backend, call_format, chat_template, "),
        (gateway.estimate, "epochs", "Did you mean n_epochs?"),
        (gateway.estimate, "base_url", "backend=OpenAIBackend(base_url=...)"),
        (gateway.estimate, "gpu", "backend=LocalBackend(gpu=...)"),
        (gateway.submit, "training_file", "Did you mean data?"),
        (gateway.submit, "base_model", "Did you mean model?"),
        (Gateway().plan, "num_epochs", "Did you mean n_epochs?"),
        (Gateway().options, "lr", "Did you mean learning_rate?"),
        (TrainingSpec.build, "lorar", "Did you mean lora_r?"),
    ]
    for function, name, hint in call:
        with pytest.raises(SpecError, match=f"no setting '{name}'") as caught:
            function(**{name: "x"})
        assert hint in caught.value.hint


def test_the_words_of_others_lead_to_keywords() -> None:
    """Each to one that some verb has; none is a keyword of ours itself."""
    ours = {name for verb in VERBS for name in inspect.signature(getattr(api, verb)).parameters}
    assert set(errors.OTHER_WORDS.values()) <= ours
    assert not ours & {*errors.OTHER_WORDS, *errors.OTHER_WAYS}


# -- wrong values ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("n_epochs", "abc", "n_epochs must be a whole number from 1 to 50 or 'auto', not 'abc'."),
        ("n_epochs", 99, "n_epochs must be a whole number from 1 to 50 or 'auto', not 99."),
        ("lora_r", 0, "lora_r must be a whole number from 1 to 1024, not 0."),
        ("lora_dropout", 1, "lora_dropout must be a number from 0 to below 1, not 1."),
        ("learning_rate", 0, "learning_rate must be a number above 0, at most 1, not 0."),
        ("max_steps", None, None),
        ("max_steps", 1.5, "max_steps must be a whole number of at least 1, not 1.5."),
        ("packing", "maybe", "packing must be True or False, not 'maybe'."),
        ("training_type", "dora", "training_type must be 'lora', 'qlora' or 'full', not 'dora'."),
        ("suffix", "", "suffix must be text of 1 to 64 characters, not ''."),
        ("target_modules", 3, "target_modules must be text or a list of names, not 3."),
        ("chat_template", ["x" * 99], f"chat_template must be text, not ['{'x' * 55}...."),
    ],
)
def test_a_wrong_value_is_refused_in_plain_words(name: str, value: Any, text: str | None) -> None:
    """What it must be, and what it was."""
    if text is None:
        assert TrainingSpec.build(model="m", **{name: value})
        return
    with pytest.raises(SpecError) as caught:
        TrainingSpec.build(model="m", **{name: value})
    assert caught.value.message == text


def test_what_is_no_backend_and_no_model_is_refused(home: Path, train_file: Path) -> None:
    """In plain words too, where no type checker was asked."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"model": "m", "backend": 3}, "backend must be a name or a backend object, not 3."),
        ({"model": "m", "backend": FakeBackend}, "backend must be a name or a backend object"),
        ({"model": None}, "There is no model to train."),
        ({"continue_from": 3}, "continue_from must be text, not 3."),
        ({"model": ""}, "model must be text, not ''."),
    ]
    for given, text in wrong:
        with pytest.raises(SpecError) as caught:
            gateway.submit(train_file, **given)
        assert text in caught.value.message


def test_every_option_is_put_into_words() -> None:
    """No option without a description, limits and a default."""
    for name, line in spec.option_lines().items():
        assert re.fullmatch(r"[A-Z].+ \(.+; default .+\)\.", line), (name, line)


def test_the_docs_list_every_option() -> None:
    """With what it is, what it may be, and its default."""
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    for name, field in TrainingSpec.model_fields.items():
        if name != "model":
            cells = (f"`{name}`", field.description, spec.wanted(name), f"`{field.default!r}`")
            assert f"| {' | '.join(map(str, cells))} |" in page, name


# -- the default place -------------------------------------------------------------------


def test_a_job_goes_to_the_same_place_in_python_and_on_the_command_line(
    home: Path, train_file: Path
) -> None:
    """Without a backend: builtin models, owner/name and folders here, other names at OpenAI."""
    g = Gateway()
    assert g.plan(train_file, model="builtin/tiny").backend.name == "local"
    assert g.plan(train_file, model=MINI).backend.name == "openai"
    assert gateway.estimate(train_file, model="builtin/tiny").backend == "local"
    found = gateway.estimate(train_file, model=["builtin/tiny", MINI])
    assert [option.backend for option in found] == ["local", "openai"]


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("gpt-5-nanoo", "Did you mean gpt-4.1-nano-2025-04-14? All of them: ftg models"),
        (
            "Qwen-32B",
            "It can be trained at Azure OpenAI in Microsoft Foundry (azure); choose that backend.",
        ),
        ("nonsense", "See: ftg models. A model of the Hugging Face hub is named owner/name."),
    ],
)
def test_a_name_that_no_place_knows_is_refused(
    model: str, hint: str, home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both readings, before the data is read; where a host is named, the host decides."""
    with pytest.raises(NotFoundError) as caught:
        gateway.submit(train_file, model=model)
    text = f"{model!r} is neither a folder here nor one of OpenAI's models."
    assert (caught.value.message, caught.value.hint) == (text, hint)
    assert gateway.submit(train_file, model=model, backend=FakeBackend()).id
    assert gateway.estimate(train_file, model=model).cost_usd is None  # its list may have grown
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(gateway.GatewayError) as other:
        gateway.submit(train_file, model=model)
    assert "neither" not in str(other.value)


def test_the_command_line_answers_alike(ftg: Ftg, train_file: Path) -> None:
    """An unknown --set, a keyword that --set must not reach, a model nobody knows."""
    submit = ("submit", str(train_file), "--yes", "--model")
    for setting, hint in (("lorar=8", "Did you mean lora_r?"), ("again=1", "It takes: ")):
        done = ftg(*submit, "builtin/tiny", "--set", setting)
        name = setting.partition("=")[0]
        assert done.returncode == 2 and f"--set has no setting '{name}'" in done.stderr
        assert hint in done.stderr
    done = ftg(*submit, "gpt-5-nanoo")
    assert done.returncode == 102
    assert "neither a folder here nor one of OpenAI's models" in done.stderr


# -- values of a wrong type --------------------------------------------------------------

ROWS = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
HUGE = 10**5000  # Python refuses to write it out
VERBS_WITH_MODEL = ("submit", "plan", "estimate", "preview", "validate")


@pytest.mark.parametrize("verb", VERBS_WITH_MODEL)
@pytest.mark.parametrize("model", [..., Path("base"), 3])
def test_what_is_no_name_of_a_model_is_refused(
    verb: str, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words, by every verb, and nothing is written."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SpecError, match="model must be"):
        getattr(Gateway(tmp_path / "home"), verb)(ROWS, model=model)
    assert verb == "validate" or not (tmp_path / "home").exists()  # it keeps rows as a file


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000], ids=["long", "long path"])
def test_a_name_longer_than_any_file_name(name: str, tmp_path: Path) -> None:
    """It is a model that nobody knows, not an error of the file system."""
    with pytest.raises(NotFoundError):
        Gateway(tmp_path).submit(ROWS, model=name)


@pytest.mark.parametrize("verb", VERBS_WITH_MODEL)
@pytest.mark.parametrize("backend", ["", [], 3])
def test_an_empty_backend_is_not_the_default(verb: str, backend: Any, tmp_path: Path) -> None:
    """A variable that is empty sends no job to OpenAI."""
    if verb == "estimate" and backend == []:
        backend = [""]
        options = Gateway(tmp_path).estimate(ROWS, model=MINI, backend=backend)
        assert isinstance(options[0].error, NotFoundError)
        return
    with pytest.raises((NotFoundError, SpecError), match="backend"):
        getattr(Gateway(tmp_path), verb)(ROWS, model=MINI, backend=backend)


@pytest.mark.parametrize("flag", ["allow_pii", "allow_secrets", "again"])
def test_a_flag_given_as_text_is_refused(flag: str, tmp_path: Path) -> None:
    """'no' is true in Python: it would send personal data, or buy a job twice."""
    options: dict[str, Any] = {flag: "no"}
    with pytest.raises(SpecError, match=f"{flag} must be True or False, not 'no'"):
        Gateway(tmp_path).submit(ROWS, model="m", backend=FakeBackend(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"n_epochs": HUGE},
        {"seed": -HUGE},
        {"learning_rate": HUGE},
        {"train_price": HUGE},
        {"validation_split": HUGE},
        {"validation_split": "abc"},
        {"validation_split": ...},
        {"validation": 3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_odd_value_is_refused_in_words(options: dict[str, Any], tmp_path: Path) -> None:
    """Also a number too long to be written out."""
    with pytest.raises(gateway.GatewayError) as error:
        Gateway(tmp_path).plan(ROWS, model=MINI, backend="openai", **options)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("validate", {"ignore": 3}),
        ("validate", {"ignore": None}),
        ("validate", {"against": 3}),
        ("preview", {"model": MINI, "rows": 3}),
        ("preview", {"model": MINI, "rows": ["1"]}),
    ],
)
def test_a_value_of_another_type_is_refused(
    verb: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """In words, by validate and preview."""
    with pytest.raises(gateway.GatewayError):
        getattr(Gateway(tmp_path), verb)(ROWS, **options)


def test_an_import_builds_no_schema() -> None:
    """A model is built when the first object of it is made, not where its methods are wrapped: the
    first of all takes 30 ms."""
    built = (
        "from pydantic import BaseModel; from finetune_gateway import api, Gateway, ModelHandle;"
        "print([c.__name__ for c in (ModelHandle, api.Report) if c.__pydantic_complete__])"
    )
    done = subprocess.run([sys.executable, "-c", built], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_arguments_of_a_gateway_are_the_same_wherever_they_are_named() -> None:
    """In its signature, its docstring, the guide's table, ``use``, and the awaited face."""
    names = [*inspect.signature(Gateway).parameters]
    said = re.findall(r"^ {4}(\w+): ", inspect.getdoc(Gateway.__init__) or "", re.MULTILINE)
    guide = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \|", guide.partition("## Keys")[0], re.MULTILINE)
    assert said == names and table == names
    for face in (Gateway, aio.Gateway):
        assert [*inspect.signature(face).parameters] == names
        assert [*inspect.signature(face.use).parameters] == ["self", *names[1:]]
