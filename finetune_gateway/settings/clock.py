"""What day it is, for prices that grow old and models that retire.

``FTG_TODAY=2027-01-06`` asks about another day: what could be trained then, and what would be
refused. Jobs, logs and budgets go by the real time.
"""

from __future__ import annotations

import os
from datetime import date

from finetune_gateway.errors import SpecError

VARIABLE = "FTG_TODAY"


def today() -> date:
    """The day of ``FTG_TODAY``, or of the machine. Raises SpecError when it is no day."""
    text = os.environ.get(VARIABLE)
    if not text:
        return date.today()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise SpecError(
            f"{VARIABLE} is {text!r}, which is no day.", hint="Like 2027-01-06; or unset it."
        ) from None
