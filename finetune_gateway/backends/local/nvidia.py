"""The NVIDIA devices of this machine, as nvidia-smi or the driver's own files list them.

torch would take 2 s to import. Nothing here waits for long: a program that hangs is left behind.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from threading import Thread

PROGRAM = "nvidia-smi"
ASK_SECONDS = 5.0  # a healthy one takes 0.1 to 2 s: the driver may have to start first
FRESH_SECONDS = 5.0  # for so long an answer holds in a process
HUNG_SECONDS = 120.0  # after a hang it is not asked again for so long
HANGS = "it hangs"
LIMIT = 1 << 20  # bytes that are read of an answer; eight GPUs in full (-q -x) are 300 kB
DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU, named by its place on the bus

# GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
#   MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
# docs.nvidia.com/datacenter/tesla/mig-user-guide/mig-device-names.html
GPU_LINE = re.compile(r"GPU (\d+): (.+?)(?: \(UUID: (GPU-[0-9A-Za-z-]+)\))?")
MIG_DEVICE = re.compile(
    r"<mig_device>\s*<index>(\d+)</index>\s*<gpu_instance_id>(\d+)</gpu_instance_id>"
    r"\s*<compute_instance_id>(\d+)</compute_instance_id>"
)
MIG_LINE = re.compile(r"MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[0-9A-Za-z-]+)\)")
FILE_NAME, FILE_UUID = re.compile(r"Model:\s*(.+)"), re.compile(r"GPU UUID:\s*(GPU-[0-9a-f-]+)")


@dataclass(frozen=True)
class Device:
    """A device that CUDA can use: a GPU, or a MIG device on one."""

    uuid: str  # as CUDA_VISIBLE_DEVICES takes it; the number where no UUID is listed
    name: str
    index: int  # the number of its GPU
    gpu: str  # the UUID of its GPU, its own if it is one
    part: int | None = None  # the number of a MIG device on its GPU

    def __str__(self) -> str:
        part = "" if self.part is None else f", MIG device {self.part}"
        return f"GPU {self.index}{part} ({self.name}, {self.uuid})"


@dataclass(frozen=True)
class Listing:
    """The devices that there are, in the order of nvidia-smi, which is that of the PCI bus.

    ``trouble``: why nvidia-smi could not be asked, or what is wrong with its answer, in words;
    ``answered``: it is not known to be of no use now.
    """

    devices: tuple[Device, ...] = ()
    trouble: str = ""
    answered: bool = True


@dataclass(frozen=True)
class Answer:
    """What a program printed, and in words why that is not all of it."""

    text: str
    trouble: str = ""


NEVER = (0.0, Answer(""))
_answers: dict[tuple[str, ...], tuple[float, Answer]] = {}  # by command, and until when each holds
# By program: not even SIGKILL ends a process that waits for a driver.
_left: list[tuple[str, subprocess.Popen[bytes]]] = []


def list_devices(driver: Path = DRIVER, seconds: float = ASK_SECONDS) -> Listing:
    """Return the devices by ``nvidia-smi -L``, which may take so many ``seconds``. If it lists
    none, by the files of the driver, which show no MIG devices."""
    answer = ask("-L", seconds=seconds)
    if answer is None:
        return Listing(tuple(_of_driver(driver, seconds)))
    devices = tuple(_of_lines(answer.text))
    if devices:
        return Listing(devices, f"{PROGRAM}: {answer.trouble}" if answer.trouble else "")
    found = tuple(_of_driver(driver, seconds))
    if "no devices" in answer.text.lower():  # it says so where there are none
        return Listing(found)
    why = answer.trouble or f"it lists no GPU: {_first_line(answer.text)}"
    return Listing(found, f"{PROGRAM} is of no use here: {why}", answered=False)


def mig_numbers() -> dict[tuple[str, int, int], int]:
    """Return the numbers of MIG devices on their GPUs, by the UUID of the GPU and the ids of the
    GPU instance and the compute instance, as ``nvidia-smi -q -x`` lists them."""
    answer = ask("-q", "-x")
    found = {}
    for gpu in re.findall(r"<gpu .*?</gpu>", answer.text if answer else "", re.DOTALL):
        uuid = re.search(r"<uuid>(GPU-[0-9A-Za-z-]+)</uuid>", gpu)
        for number, instance, compute in MIG_DEVICE.findall(gpu):
            if uuid:
                found[uuid[1], int(instance), int(compute)] = int(number)
    return found


def ask(*arguments: str, seconds: float = ASK_SECONDS) -> Answer | None:
    """Return the answer of nvidia-smi, at most some seconds old; None if there is none."""
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    return _answer([program, *arguments], seconds)


def _answer(command: list[str], seconds: float) -> Answer:
    """Return what a program prints, or what it has just printed. One that has hung is not started
    again for a while, whatever it would be asked."""
    key = tuple(command)
    until, answer = max(_answers.get(key, NEVER), _answers.get(key[:1], NEVER), key=itemgetter(0))
    if time.monotonic() < until:
        return answer
    _left[:] = [one for one in _left if one[1].poll() is None]
    if any(one == command[0] for one, _ in _left):
        return Answer("", "an earlier one still hangs")
    answer = _run(command, seconds)
    if answer.trouble.startswith(HANGS):
        _answers[key[:1]] = time.monotonic() + HUNG_SECONDS, answer
    else:
        _answers[key] = time.monotonic() + FRESH_SECONDS, answer
    return answer


def _run(command: list[str], seconds: float) -> Answer:
    """Run a program for at most so many seconds. It is killed then, and not waited for: one that
    waits for a driver may never end."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it has started can be killed with it
        )
    except OSError as exc:
        return Answer("", f"it cannot be run: {exc.strerror}")
    read: list[bytes] = []
    deadline = time.monotonic() + seconds
    reader = Thread(target=_read, args=(process, read), daemon=True)
    reader.start()
    reader.join(seconds)
    text = b"".join(read).decode(errors="replace")
    if not reader.is_alive() and len(text) < LIMIT:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(max(0.0, deadline - time.monotonic()))
            failed = f"it ended with {code}: {_first_line(text)}" if code else ""
            return Answer(text, failed)
    trouble = (
        "its answer has no end" if len(text) >= LIMIT else f"{HANGS} (no answer in {seconds:g} s)"
    )
    _kill(command[0], process)
    return Answer("", trouble)


def _read(process: subprocess.Popen[bytes], read: list[bytes]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        read.append(stream.read(LIMIT))


def _kill(program: str, process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        _left.append((program, process))


def _first_line(text: str) -> str:
    line = next((one for one in text.splitlines() if one.strip()), "")
    return ascii(line.strip()[:80]) if line else "it says nothing"


def _of_lines(text: str) -> Iterator[Device]:
    """Yield the devices in an answer to ``-L``: of a GPU with MIG devices only these, since CUDA
    cannot use it as a whole."""
    gpus: dict[int, Device] = {}
    parts: dict[str, Device] = {}
    gpu: Device | None = None
    for line in map(str.strip, text.splitlines()):
        if found := GPU_LINE.fullmatch(line):
            index, uuid = int(found[1]), found[3] or found[1]
            new = index not in gpus and all(one.uuid != uuid for one in gpus.values())
            gpu = Device(uuid, found[2], index, uuid) if new else None
            if gpu:
                gpus[index] = gpu
        elif gpu and (found := MIG_LINE.fullmatch(line)):
            name = f"{gpu.name} MIG {found[1]}"
            part = Device(found[3], name, gpu.index, gpu.uuid, int(found[2]))
            parts.setdefault(part.uuid, part)
    for one in gpus.values():
        yield from [part for part in parts.values() if part.gpu == one.uuid] or [one]


def _of_driver(driver: Path, seconds: float) -> Iterator[Device]:
    """Yield the GPUs by the files of the driver, in the order of the bus; another process reads
    them, which the driver may hold up. A GPU that nobody has used since the start of the machine
    may have no UUID there yet, and is left out."""
    cat = shutil.which("cat")
    for index, file in enumerate(sorted(driver.glob("*/information")) if cat else ()):
        text = _answer([cat or "", str(file)], seconds).text
        name, uuid = FILE_NAME.search(text), FILE_UUID.search(text)
        if uuid:
            yield Device(uuid[1], name[1].strip() if name else "GPU", index, uuid[1])
