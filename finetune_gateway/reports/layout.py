"""HTML pages: views rendered by the templates in ``templates/``, which escape every value."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


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
