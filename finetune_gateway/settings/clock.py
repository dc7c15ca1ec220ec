"""Today's date, for prices that get old and models that retire.

``FTG_TODAY=2027-01-06`` shows another day: what can be trained then, and what is refused. Jobs,
logs and budgets use the real time.
"""

from __future__ import annotations

import os
from datetime import date

from finetune_gateway.errors import SpecError

VARIABLE = "FTG_TODAY"


def today() -> date:
    """Return the date in ``FTG_TODAY``, else the machine's. Raises SpecError for a bad date."""
    text = os.environ.get(VARIABLE)
    if not text:
        return date.today()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise SpecError(
            f"{VARIABLE} is {text!r}, not a date.", hint="Set it like 2027-01-06, or unset it."
        ) from None
