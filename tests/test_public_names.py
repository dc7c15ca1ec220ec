"""The public names: each imports, the type checker sees the same ones, no module hides one."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import finetune_gateway

PACKAGE = Path(finetune_gateway.__file__).parent


@pytest.mark.parametrize("name", finetune_gateway.__all__)
def test_a_public_name_imports(name: str) -> None:
    """Every name of __all__ is there, and is listed by dir()."""
    assert getattr(finetune_gateway, name) is not None
    assert name in dir(finetune_gateway)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A wrong name fails as it does in any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        finetune_gateway.nothing  # noqa: B018


def test_the_type_checker_sees_the_lazy_table() -> None:
    """The imports under TYPE_CHECKING are exactly the table of lazy names."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen: dict[str, list[str]] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module is not None
        module = node.module.removeprefix("finetune_gateway.")
        seen.setdefault(module, []).extend(alias.name for alias in node.names)
    assert {module: sorted(names) for module, names in seen.items()} == {
        module: sorted(names) for module, names in finetune_gateway._MODULES.items()
    }


def test_no_module_bears_the_name_of_a_public_function() -> None:
    """Importing a module finetune_gateway.submit would replace the function of that name."""
    functions = {
        name
        for name in finetune_gateway.__all__
        if inspect.isfunction(getattr(finetune_gateway, name))
    }
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {"submit", "validate"} <= functions
    assert not functions & modules


def test_every_public_thing_says_what_it_is() -> None:
    """Each public class and function has a docstring of its own."""
    bare = [
        name for name in finetune_gateway.__all__ if not getattr(finetune_gateway, name).__doc__
    ]
    assert bare == []


def test_all_lists_the_lazy_table() -> None:
    """A type checker reads the literal list; it names what the table holds."""
    names = [name for listed in finetune_gateway._MODULES.values() for name in listed]
    assert finetune_gateway.__all__ == sorted([*names, "__version__"])
