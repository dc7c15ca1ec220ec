"""The half of a handle that other tools serve: its export."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from finetune_gateway.jobs import downloads
from finetune_gateway.jobs.merges import say_nothing
from finetune_gateway.jobs.publishing import Published
from finetune_gateway.model import exact_methods
from finetune_gateway.renderers import renderer
from finetune_gateway.settings.arguments import require_function
from finetune_gateway.settings.home import Settings


@exact_methods
class Exported(Published):
    """A model that other tools may serve."""

    def export(
        self,
        to: str,
        path: str | os.PathLike[str],
        *,
        weights: str | None = None,
        name: str | None = None,
        converter: str | os.PathLike[str] | None = None,
        outtype: str = "auto",
        report: Callable[[str], None] = say_nothing,
    ) -> dict[str, Any]:
        """Write this model for another tool to a folder, with the commands that serve it and a
        README, and return its manifest. The folder is there whole or not at all.

        Arguments:
            to: merged, gguf, ollama, vllm, sglang or transformers.
            path: A folder that is not there yet.
            weights: adapter or merged; by default the adapter for vLLM and SGLang where they take
                it, else merged.
            name: By which the tool is asked; by default that of the job.
            converter: For gguf: llama.cpp's convert_hf_to_gguf.py, if it is not on the PATH.
            outtype: For gguf: auto, f32, f16, bf16 or q8_0.
            report: Called with what is being done.

        Raises UnsupportedError for a model that is not on this machine, SpecError for what the tool
        cannot serve and a folder that holds something, NotFoundError without a converter,
        GatewayError for what does not work when it is tried, StoreError.
        """
        require_function(report, "report", "what is being done")
        settings = self._settings or Settings.load()
        folder = downloads.place_of(path)
        manifest: dict[str, Any] = renderer("ModelHandle.export")(
            self, settings, folder, to, weights, name, converter, outtype, report
        )
        return manifest
