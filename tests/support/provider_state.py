"""What the provider of ``provider.py`` knows, put together: each part stands on those before it.

``provider_memory`` (settings, pages), ``provider_files``, ``provider_jobs``, ``provider_models``,
``provider_fine_tunes`` (a past, made at once), ``provider_chat``, ``provider_stored``,
``provider_batch``, ``provider_usage``. Each organisation and each project (``ACCOUNT``) sees its
own files and jobs alone, unless ``jobs_by_project`` is off.
"""

from __future__ import annotations

from support.provider_usage import Usage


class World(Usage):
    """The provider's memory. Settings are public and may be changed while it runs."""
