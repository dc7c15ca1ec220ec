"""Slots: which devices jobs may use, whatever nvidia-smi and CUDA_VISIBLE_DEVICES say."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Ftg
from support.sleepers import Home
from support.training import a_run

from finetune_gateway.backends.local import nvidia, variables, worker
from finetune_gateway.backends.local.nvidia import Device, Listing
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.slots import find_slots, slots, still_there
from finetune_gateway.settings.files import unlock
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

pytest_plugins = ("support.cli",)

A = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"
B = "GPU-5d5b11eb-627f-af3f-1a0d-4e1fd92fd7b0"
M0 = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
M1 = "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"
CARD = "NVIDIA H100 80GB HBM3"
ONE = f"GPU 0: {CARD} (UUID: {A})\n"
TWO = f"GPU 0: {CARD} (UUID: {A})\nGPU 1: {CARD} (UUID: {B})\n"
MIG = (
    f"GPU 0: {CARD} (UUID: {A})\n  MIG 1g.10gb     Device  0: (UUID: {M0})\n"
    f"  MIG 1g.10gb     Device  1: (UUID: {M1})\nGPU 1: {CARD} (UUID: {B})\n"
)
NUMBERS = {(A, 7, 0): 0, (A, 9, 0): 1}
CPU = ["cpu"]

Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Writes an nvidia-smi that is first on the path; the variables of this machine are unset."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(script: str) -> Path:
        path = folder / "nvidia-smi"
        path.write_text(f"#!/bin/sh\necho \"$@\" >> '{folder}/calls'\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return folder / "calls"

    return write


def lists(text: str) -> str:
    return f"cat <<'END'\n{text}END"


def named(*uuids: str) -> list[str]:
    return [f"gpu-{uuid}" for uuid in uuids]


VALUES: dict[str | None, tuple[list[str], list[str]]] = {  # slots of two GPUs, and with MIG
    None: (named(A, B), named(M0, M1, B)),
    "": (CPU, CPU),
    " ": (CPU, CPU),
    "-1": (CPU, CPU),
    "0": (named(A), named(M0, M1)),
    "1": (named(B), named(B)),
    "0,1": (named(A, B), named(M0, M1, B)),
    "1, 0": (named(B, A), named(B, M0, M1)),
    "1,-1,0": (named(B), named(B)),
    "1,2,0": (named(B), named(B)),
    "1,1,0": (named(B), named(B)),
    f"1,{B}": (named(B), named(B)),
    "1gpu": (named(B), named(B)),
    A: (named(A), named(M0, M1)),
    f"{B},{A}": (named(B, A), named(B, M0, M1)),
    "GPU-5d5ba": (named(A), named(M0, M1)),
    "GPU-5d5b": (CPU, CPU),  # both begin so
    "GPU-ffff": (CPU, CPU),
    "gpu-0": (CPU, CPU),
    M1: (CPU, named(M1)),
    f"{M1},{M0}": (CPU, named(M1, M0)),
    "MIG-cba": (CPU, named(M1)),
    f"0,{M1}": (named(A), named(M0, M1)),
    f"MIG-{A}/9/0": (CPU, named(M1)),
    f"MIG-{A}/9/0,{M1}": (CPU, named(M1)),  # the same one again
    f"MIG-{A}/3/0": (CPU, CPU),
    "all": (CPU, CPU),
    ",0": (CPU, CPU),
    "0,": (named(A), named(M0, M1)),
    "\x00☃;rm": (CPU, CPU),
}


@pytest.mark.parametrize("value", VALUES)
def test_a_value_of_the_variable_leaves_these_slots(program: Program, value: str | None) -> None:
    """On two GPUs, and on one with two MIG devices beside another; no device has two slots."""
    for text, wanted in zip((TWO, MIG), VALUES[value], strict=True):
        program(lists(text))
        nvidia._answers.clear()
        listing = nvidia.list_devices()
        environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
        found = find_slots(environment, listing, lambda: NUMBERS)
        assert found.names == wanted
        assert len(set(found.names)) == len(found.names)
        shown = {*found.devices} | {
            one
            for one in listing.devices
            if any(
                line.startswith(f"{one} is not used: CUDA_VISIBLE_DEVICES is ")
                for line in found.unused
            )
        }
        assert shown == {*listing.devices}  # each is used, or it is said why not


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'No devices were found'; exit 6", ""),
        ("echo 'NVIDIA-SMI has failed'; exit 9", "it ended with 9: 'NVIDIA-SMI has failed'"),
        ("echo 'GPU zero: what'; echo '{}'", "it lists no GPU: 'GPU zero: what'"),
        ("printf '\\033[2J\\377\\000'", "it lists no GPU: '\\x1b[2J"),
        ("true", "it lists no GPU: it says nothing"),
        ("sleep 60", "it hangs (no answer in 0.3 s)"),
        ("echo 'GPU 0'; exec >&- 2>&-; sleep 60", "it hangs (no answer in 0.3 s)"),
        ("exec yes 'GPU 0: x'", "its answer has no end"),
    ],
)
def test_an_answer_of_no_use_leaves_the_driver_s_files(
    program: Program, tmp_path: Path, script: str, said: str
) -> None:
    """They have the same UUIDs, so the locks are the same; without them the CPU is left."""
    calls = program(script)
    none = nvidia.list_devices(tmp_path / "none", 0.3)
    assert none.devices == () and (said in none.trouble if said else not none.trouble)
    assert find_slots({"CUDA_VISIBLE_DEVICES": "0,1"}, none).names == CPU
    assert find_slots({}, none).names == CPU
    for place, uuid in (("0000:01:00.0", A), ("0000:41:00.0", B), ("0000:81:00.0", "GPU-???")):
        (folder := tmp_path / "gpus" / place).mkdir(parents=True)
        lines = f"Model: \t\t {CARD}\nIRQ:   \t\t 180\nGPU UUID: \t {uuid}\n"
        (folder / "information").write_text(lines)
    found = nvidia.list_devices(tmp_path / "gpus", 0.3)
    assert find_slots({}, found).names == named(A, B)
    assert find_slots({"CUDA_VISIBLE_DEVICES": "GPU-5d5b1"}, found).names == named(B)
    if "hangs" in said:
        assert nvidia.mig_numbers() == {}
    assert calls.read_text() == "-L\n"  # its answer holds for a while, its hanging for longer


def test_a_slow_one_is_waited_for(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is absent is no trouble."""
    program(f"sleep 0.2\n{lists(TWO)}")
    assert slots() == named(A, B)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert nvidia.list_devices(Path("/nonexistent")) == Listing()


def test_the_last_list_holds_while_there_is_none(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job does not begin on the CPU beside that on the GPU because nvidia-smi fails for a while.
    That there are none any more is an answer."""
    program(lists(TWO))
    known = slots()
    none = "echo 'No devices were found'; exit 6"
    for script, left in (("exit 9", named(A, B)), (none, CPU), (lists(ONE), named(A))):
        program(script)
        monkeypatch.setattr(nvidia, "_answers", {})
        assert slots(known) == left


def test_a_job_for_which_the_cpu_was_chosen_sees_no_gpu(
    home: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker starts with an environment that names none, and one may be there."""
    program(lists(ONE))
    for devices, hidden in ((["cpu"], ""), (None, None), (named(A), A)):
        run = a_run(home, TrainingSpec.build(model="builtin/tiny"), [])
        run.claim(devices=None if devices is None else json.dumps(devices))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        worker.begin(run, (devices or ["cpu"])[0], None)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == hidden
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_lost_gpu_leaves_the_others(program: Program) -> None:
    """What is listed counts, under its own number, though nvidia-smi ends with an error."""
    program(
        f"echo 'Unable to determine the device handle for GPU0: Unknown Error'\n"
        f"echo 'GPU 1: {CARD} (UUID: {B})'\nexit 15"
    )
    listing = nvidia.list_devices()
    assert find_slots({}, listing).names == named(B)
    assert find_slots({"CUDA_VISIBLE_DEVICES": "1"}, listing).names == named(B)
    assert find_slots({"CUDA_VISIBLE_DEVICES": "0"}, listing).names == CPU
    assert "ended with 15" in listing.trouble


def test_a_gpu_is_one_lock_under_all_its_names(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken by its number it is not free by its UUID, by the start of that, or for all."""
    program(lists(TWO))
    queue = Queue(Settings(tmp_path / "home").create())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    taken = queue.try_slot()
    assert taken is not None and taken[0] == f"gpu-{B}"
    for value in (B, "GPU-5d5b1", "1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert queue.try_slot() is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    other = queue.try_slot()
    assert other is not None and other[0] == f"gpu-{A}"
    assert queue.try_slot() is None
    for _, descriptor in (taken, other):
        unlock(descriptor)


def test_ids_of_instances_are_read_from_the_full_answer(program: Program) -> None:
    """As nvidia-smi -q -x lists them: number, GPU instance and compute instance, then the UUID."""
    parts = "".join(
        f"<mig_device>\n\t<index>{number}</index>\n\t<gpu_instance_id>{instance}</gpu_instance_id>"
        f"\n\t<compute_instance_id>{compute}</compute_instance_id></mig_device>"
        for (_, instance, compute), number in NUMBERS.items()
    )
    program(
        lists(
            f'<gpu id="1">\n<mig_devices>{parts}</mig_devices>\n<uuid>{A}</uuid></gpu>\n'
            f'<gpu id="2"><mig_devices>None</mig_devices><uuid>{B}</uuid></gpu>\n'
        )
    )
    assert nvidia.mig_numbers() == NUMBERS


def test_numbers_of_gpus_that_differ_are_said_to_be_in_doubt() -> None:
    """CUDA counts the fastest first, nvidia-smi by the bus; with PCI_BUS_ID both agree."""
    listing = Listing((Device(A, "NVIDIA T4", 0, A), Device(B, CARD, 1, B)))
    by_number = {"CUDA_VISIBLE_DEVICES": "0"}
    assert "CUDA_DEVICE_ORDER" in " ".join(find_slots(by_number, listing).problems)
    assert find_slots({**by_number, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, listing).problems == ()
    assert find_slots({"CUDA_VISIBLE_DEVICES": A}, listing).problems == ()


def test_a_container_s_variable_explains_and_decides_nothing() -> None:
    """``void`` stands also in containers with GPUs by CDI."""
    both = {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": "0"}
    assert find_slots(both, Listing((Device(A, CARD, 0, A),))).names == named(A)
    found = find_slots(both, Listing())
    assert found.names == CPU and "NVIDIA_VISIBLE_DEVICES is void" in found.problems[-1]


def test_commands_show_the_slots_and_why_one_is_not_used(
    ftg: Ftg, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """doctor and backends; a command that needs none does not ask nvidia-smi."""
    calls = program(lists(TWO))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,7")
    for command in (("list",), ("--help",), ("models",), ("config",), ("backends", "openai")):
        assert ftg(*command).returncode == 0
    assert not calls.exists()
    checks = {one["name"]: one for one in json.loads(ftg("doctor", "--json").stdout)["checks"]}
    assert checks["slots"]["state"] == "warning"
    assert f"one job at a time, on GPU 1 ({CARD}, {B})" in checks["slots"]["found"]
    unused = f"GPU 0 ({CARD}, {A}) is not used: CUDA_VISIBLE_DEVICES is '1,7'"
    assert unused in checks["slots"]["found"]
    assert "'7' names no device here" in checks["slots"]["fix"]
    notes = json.loads(ftg("backends", "local", "--json").stdout)["notes"]
    assert unused in notes
    assert calls.read_text().splitlines().count("-L") == 1


def test_a_device_that_is_gone_is_not_waited_for(home: Path, program: Program) -> None:
    """A job takes another one of those of its submit; if none is left it ends, says so, and a
    resume lets it take any. While nvidia-smi is of no use nothing is known to be gone."""
    one = Home(home)
    gone, here = f"gpu-{B}", f"gpu-{A}"
    program(lists(ONE))
    one.add("b")
    for name, devices in (("a", [gone, here]), ("b", [gone])):
        with one.queue.store.transaction() as db:
            changed = "UPDATE runs SET devices = ?, fence = 1 WHERE id = ?"
            db.execute(changed, (json.dumps(devices), name))
        worker.work(Run(one.queue.settings, name, 1), gone)
    another, ended = one.queue.get("a"), one.queue.get("b")
    assert another.status == "queued" and another.devices == (here,) and not another.attempts
    assert ended.status == "failed" and f"GPU {B}, which is not here any more" in str(ended.error)
    assert "ftg resume b" in str(ended.error)
    assert one.alone is not None
    one.queue.resume("b", 1)
    assert one.queue.get("b").status == "queued" and one.queue.get("b").devices is None
    program("exit 9")
    nvidia._answers.clear()
    assert still_there([gone]) == [gone]


def test_a_worker_of_another_shell_says_which_token_is_missing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart of the machine; where models lie is kept, and a token never is."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    spec = TrainingSpec.build(model="builtin/tiny")
    shell = variables.of(
        {"HF_TOKEN": "hf_secret", "HF_HOME": "/disk/hf", "HF_ENDPOINT": "https://me:pw@hub.example"}
    )
    assert shell.model_dump() == {"places": {"HF_HOME": "/disk/hf"}, "tokens": ("HF_TOKEN",)}
    for token, said in (("", True), ("hf_secret", False)):
        run = a_run(home, spec, [])
        run.file = run.file.model_copy(update={"shell": shell})
        monkeypatch.setenv("HF_TOKEN", token)
        worker.begin(run, "cpu", None)
        log = run.folder / "events.jsonl"
        text = log.read_text() if log.exists() else ""
        assert ("HF_TOKEN was set when the job was submitted" in text) is said
        assert (f"ftg resume {run.id}" in text) is said
    given = {"HF_HOME": "/mine"}
    variables.bring(given, shell)
    assert given == {"HF_HOME": "/mine"}
    empty: dict[str, str] = {}
    variables.bring(empty, shell)
    assert empty == {"HF_HOME": "/disk/hf"}
