"""Slots for local jobs: one for each device that this process may use, else one for the CPU.

A slot bears the UUID of its device, so whoever sees a GPU, under whatever number, takes the same
lock. What ``CUDA_VISIBLE_DEVICES`` means: docs.nvidia.com/cuda/cuda-programming-guide, appendix
"CUDA Environment Variables", and of MIG devices docs.nvidia.com/datacenter/tesla/mig-user-guide,
"CUDA Device Enumeration".

``NVIDIA_VISIBLE_DEVICES`` decides nothing here. It tells a container's runtime which GPUs to put
into the container, which then are what nvidia-smi lists; ``void`` stands also in containers that
have got GPUs by CDI (docs.docker.com/build/building/cdi).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from finetune_gateway.backends.local import nvidia
from finetune_gateway.backends.local.nvidia import Device, Listing

VISIBLE = "CUDA_VISIBLE_DEVICES"
CPU = "cpu"
MigNumbers = Mapping[tuple[str, int, int], int]


@dataclass(frozen=True)
class Slots:
    """The devices that jobs of this process may use, and in words why others are not used."""

    devices: tuple[Device, ...] = ()
    unused: tuple[str, ...] = ()  # a device, and why not
    problems: tuple[str, ...] = ()  # of nvidia-smi, or of the list of devices

    @property
    def names(self) -> list[str]:
        return [f"gpu-{device.uuid}" for device in self.devices] or [CPU]

    def __str__(self) -> str:
        count = len(self.devices)
        jobs = "one job at a time" if count < 2 else f"{count} jobs at once"
        return f"{jobs}, on {'; '.join(map(str, self.devices)) or 'the CPU'}"


def slots(known: Sequence[str] = ()) -> list[str]:
    """Return the names of the slots: ``gpu-`` and the UUID of a device each, else ``cpu``.
    ``known``: those of before, which hold while nvidia-smi is of no use: a job that begins on the
    CPU then, or on a GPU of which others hold parts, has a device that is taken."""
    listing = nvidia.list_devices()
    if known and not listing.answered:
        return [*known]
    return find_slots(os.environ, listing).names


def still_there(names: Sequence[str]) -> list[str]:
    """Return those slots whose devices this machine has, whatever a shell may use; all of them
    while that cannot be known."""
    listing = nvidia.list_devices()
    there = {CPU, *(f"gpu-{device.uuid}" for device in listing.devices)}
    return [one for one in names if one in there] if listing.answered else [*names]


def find_slots(
    environment: Mapping[str, str],
    listing: Listing,
    mig_numbers: Callable[[], MigNumbers] = nvidia.mig_numbers,
) -> Slots:
    """Return the slots that an environment leaves of the devices that there are."""
    value = environment.get(VISIBLE)
    problems = [f"{listing.trouble}."] if listing.trouble else []
    if not listing.devices:
        if value and value.strip() != "-1":
            problems.append(f"{VISIBLE} is {value!r}, and no NVIDIA device was found.")
            problems += _container(environment)
        return Slots(problems=tuple(problems))
    if value is None:
        return Slots(listing.devices, problems=tuple(problems))
    chosen, cut = visible_devices(value, listing.devices, mig_numbers)
    if cut:
        problems.append(cut)
    if _order_in_doubt(value, environment, listing.devices):
        problems.append(
            f"The GPUs differ, and CUDA counts the fastest first unless CUDA_DEVICE_ORDER is "
            f"PCI_BUS_ID. The numbers in {VISIBLE} are taken as those of nvidia-smi."
        )
    why = f"{VISIBLE} is {value!r}"
    unused = (f"{one} is not used: {why}" for one in listing.devices if one not in chosen)
    return Slots(tuple(chosen), tuple(unused), tuple(problems))


def _container(environment: Mapping[str, str]) -> list[str]:
    asked = environment.get("NVIDIA_VISIBLE_DEVICES")
    if asked not in ("void", "none"):
        return []
    return [f"NVIDIA_VISIBLE_DEVICES is {asked}: a container with it gets no GPU but by CDI."]


def _order_in_doubt(
    value: str, environment: Mapping[str, str], devices: tuple[Device, ...]
) -> bool:
    counted = re.match(r"\s*\+?\d", value) is not None
    by_bus = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    kinds = {one.name.partition(" MIG ")[0] for one in devices}
    return counted and not by_bus and len(kinds) > 1


def visible_devices(
    value: str, devices: tuple[Device, ...], mig_numbers: Callable[[], MigNumbers]
) -> tuple[list[Device], str]:
    """Return the devices that a value of ``CUDA_VISIBLE_DEVICES`` names, in its order, and in words
    why its rest does not count, if so.

    An entry is the number of a GPU, its UUID or as much of that as no other begins with,
    ``MIG-UUID``, or ``MIG-GPU-UUID/GPU instance/compute instance``. The list ends before the first
    entry that is none of these. A GPU with MIG devices stands for all of them. An entry that names
    a device again ends the list too, which NVIDIA leaves open; torch takes such a list as empty
    (``_parse_visible_devices`` in torch/cuda), but then a job would train on the CPU.
    """
    chosen: list[Device] = []
    entries = value.split(",")
    for number, entry in enumerate(map(str.strip, entries), 1):
        found = _devices_of(entry, devices, mig_numbers)
        if not found:
            wanted = entry == "-1" or (not entry and number == len(entries))  # said on purpose
            return chosen, "" if wanted else _cut(value, entry, "names no device here, or several")
        if any(one in chosen for one in found):
            return chosen, _cut(value, entry, "names a device again")
        chosen += found
    return chosen, ""


def _cut(value: str, entry: str, why: str) -> str:
    return f"{VISIBLE} is {value!r}: {entry!r} {why}, and the list ends before it."


def _devices_of(
    entry: str, devices: tuple[Device, ...], mig_numbers: Callable[[], MigNumbers]
) -> list[Device]:
    """Return the devices that an entry names; none if it is not valid."""
    if old := re.fullmatch(r"MIG-(GPU-[0-9A-Za-z-]+)/(\d+)/(\d+)", entry):
        part = mig_numbers().get((old[1], int(old[2]), int(old[3])))
        return [
            one for one in devices if part is not None and (one.gpu, one.part) == (old[1], part)
        ]
    if entry.startswith("MIG-"):
        found = [one for one in devices if one.uuid.startswith(entry)]
        return found if len(found) == 1 else []
    if entry.startswith("GPU-"):
        gpus = {one.gpu for one in devices if one.gpu.startswith(entry)}
        return [one for one in devices if one.gpu in gpus] if len(gpus) == 1 else []
    # CUDA reads a number as C's strtol does: 1gpu is 1 (_parse_visible_devices in torch/cuda).
    found_number = re.match(r"\+?(\d+)", entry)
    return [one for one in devices if found_number and one.index == int(found_number[1])]
