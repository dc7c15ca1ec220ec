"""The base of a host that names its models in a way of its own, by its name on the Hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.safetensors import weights

from finetune_gateway import FakeBackend, Gateway, ModelHandle
from finetune_gateway.backend import Artifact, HandleData, JobStatus, Result, Snapshot

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": weights("w")}
ARTIFACTS = [
    Artifact(name=name, kind="adapter", bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    for name, raw in FILES.items()
]


class Hosting(FakeBackend):
    """Gives the files of an adapter."""

    def download(self, artifact: Artifact, handle: HandleData, folder: Path) -> None:
        (folder / artifact.name).write_bytes(FILES[artifact.name])


def test_a_downloaded_adapter_is_of_the_base_that_the_plugin_says(
    home: Path, train_file: Path, tmp_path: Path
) -> None:
    """From its result to the handle here; the user's own word comes first, and the hosted model
    keeps the name that its host knows."""
    result = Result(
        kind="hosted", model="tuned:1", hub_base="meta-llama/Llama-3.1-8B", artifacts=ARTIFACTS
    )
    backend = Hosting([Snapshot(status=JobStatus.SUCCEEDED, result=result)])
    job = Gateway().submit(train_file, model="meta/llama-3-8b:f1a9", backend=backend)
    hosted = job.result(30)
    assert hosted.base_model == "meta/llama-3-8b:f1a9"
    again = ModelHandle.model_validate_json(hosted.model_dump_json())
    assert again.hub_base == result.hub_base
    found = hosted.download(tmp_path / "here")
    assert (found.kind, found.base_model) == ("adapter", "meta-llama/Llama-3.1-8B")
    mine = hosted.download(tmp_path / "mine", base="my/llama")
    assert mine.base_model == "my/llama"


@pytest.mark.parametrize("name", ["../base", "/srv/base", "a/b/c", "", "meta/llama:1", "a\nb"])
def test_a_path_is_no_base_of_the_hub(name: str) -> None:
    """A host names no folder of this machine."""
    with pytest.raises(ValidationError, match="hub_base"):
        Result(kind="hosted", model="m", hub_base=name)
