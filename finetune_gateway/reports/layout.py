"""HTML pages: views rendered by the templates in ``templates/``, which escape every value."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_gateway.errors import SpecError

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


_GENERATOR = b'<meta name="generator" content="finetune-gateway">'
_HEAD = 1000  # bytes that a page has it in


def raise_if_foreign(path: Path, *, force: bool = False, inputs: tuple[Path, ...] = ()) -> None:
    """Raise SpecError if a page may not be written here: over a folder, an input, or, unless
    ``force``, a file that is not a page of ours."""
    if not path.exists():
        return
    if path.is_dir():
        raise SpecError(f"{path} is a folder.", hint="Choose a file to write.")
    if any(one.exists() and one.samefile(path) for one in inputs):
        raise SpecError(f"{path} is the data file.", hint="Choose another file to write.")
    if not force and not _is_page(path):
        raise SpecError(
            f"{path} exists, and is not a page of ours.",
            hint="Choose another file, or use --force.",
        )


def _is_page(path: Path) -> bool:
    """Return True for a page that was written here; only such a one is replaced."""
    try:
        with path.open("rb") as file:
            return _GENERATOR in file.read(_HEAD)
    except OSError:
        return False


@cache
def environment() -> Environment:
    """Return the environment of all pages: values are escaped, unknown names are errors."""
    # Imported here: most commands write no page.
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("finetune_gateway", "reports/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, view: object) -> str:
    """Return a whole page; the template knows the view as ``page``."""
    html = environment().get_template(template).render(page=view)
    # A file's name may hold bytes that are no text; UTF-8 cannot write them.
    return html.encode("utf-8", "backslashreplace").decode()


def fragment(template: str, macro: str, view: object) -> Markup:
    """Return a part of a page, drawn by a macro of a template."""
    html: Markup = getattr(environment().get_template(template).module, macro)(view)
    return html
