"""Defects of the parts of a multimodal content. Images are never fetched."""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
import unicodedata
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from finetune_gateway.findings import Defect, wrong_type
from finetune_gateway.text.quoting import json_type, quoted
from finetune_gateway.text.regex import LazyPattern

Json = dict[str, Any]
Defects = Iterator[Defect]

MAX_IMAGE = 10 << 20  # bytes; OpenAI's vision fine-tuning guide

_DATA = LazyPattern(r"data:(?P<mime>[^;,]*)(?P<base64>;base64)?,", re.IGNORECASE)
_MIMES = ("image/jpeg", "image/jpg", "image/png", "image/webp")
_MAGIC = {  # the first bytes of each type, in base64
    "image/jpeg": "/9j/",
    "image/jpg": "/9j/",
    "image/png": "iVBORw0KGgo",
    "image/webp": "UklGR",
}
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_SCHEME = LazyPattern(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PNG_HEAD = 33  # bytes: the signature and the whole first chunk, IHDR
_WITH_V4 = (  # an IPv4 address in the last 4 bytes: NAT64, and the deprecated IPv4-compatible
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("::/96"),
)
_OWN_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # for use within a network, RFC 8215
_DOTS = str.maketrans("\u3002", ".")  # IDNA treats the ideographic full stop as a dot
_INSIDE = (".local", ".internal", ".localhost", ".lan", ".home", ".corp", ".intranet", ".arpa")


def part_defects(content: list[Any], role: Any, path: str) -> Defects:
    """Yield the defects of a content that is a list of parts."""
    if not content:
        yield Defect("part_field", path, "the list of content parts is empty")
    for index, part in enumerate(content):
        here = f"{path}[{index}]"
        if isinstance(part, dict):
            yield from _part(part, role, here)
        else:
            yield wrong_type(here, part, "an object with a type")


def _part(part: Json, role: Any, path: str) -> Defects:
    kind = part.get("type")
    if kind == "text":
        yield from _text(part, "text", path)
    elif kind == "image_url":
        yield from _image(part, role, path)
    elif kind == "refusal" and role == "assistant":
        yield from _text(part, "refusal", path)
    elif kind in ("input_audio", "file"):
        yield Defect("part_unsupported", path, f"a content part of type {quoted(kind)}")
    elif "type" not in part:
        yield Defect("part_type", f"{path}.type", "a content part without 'type'")
    else:
        yield Defect(
            "part_type", f"{path}.type", f"the content part {quoted(kind)} is not allowed here"
        )


def _text(part: Json, field: str, path: str) -> Defects:
    text = part.get(field)
    if isinstance(text, str):
        return
    if field not in part:
        keys = ", ".join(quoted(key) for key in list(part)[:5] if key != "type") or "nothing"
        yield Defect("part_field", path, f"a {field} part without {field!r}; it has {keys}")
    else:
        yield Defect("part_field", path, f"{field!r} must be a string, not {json_type(text)}")


def _image(part: Json, role: Any, path: str) -> Defects:
    if role in ("system", "developer", "assistant", "tool", "function"):
        yield Defect("image_role", path, f"an image in a message of the role {quoted(role)}")
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        yield Defect("part_field", path, _no_url(image))
        return
    yield from _detail(image, path)
    if defect := url_defect(url, f"{path}.image_url.url"):
        yield defect
    yield Defect("image_local", path)
    yield Defect("image_model", path)  # counts for some models of a host


def _no_url(image: Any) -> str:
    if isinstance(image, str):
        return "'image_url' must be an object with 'url', not a string"
    return "an image part without image_url.url"


def _detail(image: Any, path: str) -> Defects:
    detail = image.get("detail", "auto")
    if detail not in ("auto", "low", "high"):
        what = f"'detail' must be auto, low or high, not {quoted(detail)}"
        yield Defect("part_field", f"{path}.image_url.detail", what)


def url_defect(url: str, path: str) -> Defect | None:
    """Return the defect of an image URL, or None. Nothing is fetched or resolved."""
    if url[:5].lower() == "data:":
        return _data_defect(url, path)
    scheme = _SCHEME.match(url)
    if not scheme or len(scheme.group()) == 2 or url[:5].lower() == "file:":
        return Defect("image_path", path, f"the image {quoted(url)} is a file path")
    reason = _refused(url)
    return Defect("image_url_forbidden", path, f"{quoted(url)}: {reason}") if reason else None


def _refused(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = _normalized_host(parts.hostname or "")
    except ValueError:
        return "not a valid address"
    if _is_inside(host):
        return "an address inside a network"
    if parts.scheme.lower() != "https":
        return f"{parts.scheme} instead of https"
    return "a password in the address" if "@" in parts.netloc else ""


def _normalized_host(host: str) -> str:
    """Return the host as a browser reads it: digits in circles, for example, are plain digits."""
    plain = unicodedata.normalize("NFKC", unquote(host)).translate(_DOTS)
    return plain.lower().rstrip(".")


def _is_inside(host: str) -> bool:
    """Return True for loopback, private and link-local addresses in every notation of
    ``inet_aton``, also within IPv6 addresses, and for names of local networks."""
    try:
        address = ipaddress.ip_address(host)
        return address in _OWN_NAT64 or any(not target.is_global for target in _targets(address))
    except ValueError:
        pass
    try:
        return not ipaddress.ip_address(socket.inet_aton(host)).is_global
    except (OSError, ValueError):
        return "." not in host or host.endswith(_INSIDE)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _targets(address: _Address) -> Iterator[_Address]:
    """Yield the addresses that a packet reaches: gateways between IPv6 and IPv4 (NAT64, 6to4,
    Teredo) forward it to the embedded IPv4 address."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address.ipv4_mapped:
        yield address.ipv4_mapped
        return
    yield address
    if address.sixtofour:
        yield address.sixtofour
    yield from address.teredo or ()
    if any(address in network for network in _WITH_V4):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _data_defect(url: str, path: str) -> Defect | None:
    match = _DATA.match(url[:200])
    if not match or not match["base64"]:
        return Defect("image_data", path, "a data: URL without ';base64,'")
    mime, start = match["mime"].lower(), match.end()
    if mime not in _MIMES:
        return Defect("image_data", path, f"an image of type {quoted(mime)}")
    if len(url) - start > MAX_IMAGE * 4 // 3 + 4:
        return Defect("image_data", path, "an image of more than 10 MB")
    if not url.startswith(_MAGIC[mime], start):
        return Defect("image_data", path, f"the data does not start like {mime}")
    if (len(url) - start) % 4 or not _BASE64.fullmatch(url, start):
        return Defect("image_data", path, "the data is not valid base64")
    if mime == "image/png" and not _has_png_header(url[start : start + 4 * _PNG_HEAD // 3]):
        return Defect("image_data", path, "the PNG ends in its header, or has none")
    return None


def _has_png_header(encoded: str) -> bool:
    """Return True if the first chunk, with the size of the image, is complete."""
    head = base64.b64decode(encoded)
    return len(head) == _PNG_HEAD and head[12:16] == b"IHDR"
