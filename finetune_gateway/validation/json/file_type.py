"""What a file is, told from its first bytes, before it is read as lines."""

from __future__ import annotations

from finetune_gateway.findings import Defect

HEAD = 4096  # bytes looked at
BOM = b"\xef\xbb\xbf"

_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"\x1f\x9d", "compress"),
    (b"PK\x03\x04", "zip (or a spreadsheet, which is one)"),
    (b"PK\x05\x06", "zip, empty"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!", "RAR"),
    (b"\xff\x06\x00\x00sNaPpY", "Snappy"),
    (b"MSCF", "a Windows cabinet"),
)
_BINARY = (
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"FEA1", "Feather"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"ORC", "ORC"),
    (b"Obj\x01", "Avro"),
    (b"SQLite format 3\x00", "SQLite"),
    (b"%PDF", "PDF"),
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"\x89HDF", "HDF5"),
    (b"\x93NUMPY", "NumPy"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\xd0\xcf\x11\xe0", "an old Office file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a Windows program"),
    (b"\x00asm", "WebAssembly"),
    (b"RIFF", "a sound, a picture or a film (RIFF)"),
    (b"OggS", "Ogg"),
    (b"fLaC", "FLAC"),
    (b"ID3", "MP3"),
    (b"GGUF", "GGUF, a model"),
    (b"{\\rtf", "RTF"),
)
_ENCODINGS = (  # the longer marks first: UTF-32 LE begins like UTF-16 LE
    (b"\xff\xfe\x00\x00", "encoding_utf32", "UTF-32 LE with a byte order mark"),
    (b"\x00\x00\xfe\xff", "encoding_utf32", "UTF-32 BE with a byte order mark"),
    (b"\xff\xfe", "encoding_utf16", "UTF-16 LE with a byte order mark"),
    (b"\xfe\xff", "encoding_utf16", "UTF-16 BE with a byte order mark"),
)
# JSON begins with ASCII, so the places of NUL in its first 4 bytes tell (RFC 4627, section 3).
_NULS = {
    (True, True, True, False): ("encoding_utf32", "UTF-32 BE"),
    (False, True, True, True): ("encoding_utf32", "UTF-32 LE"),
    (True, False, True, False): ("encoding_utf16", "UTF-16 BE"),
    (False, True, False, True): ("encoding_utf16", "UTF-16 LE"),
}


def file_defect(head: bytes) -> Defect | None:
    """Why the file cannot be lines of JSON at all, or None."""
    for magic, name in _COMPRESSED:
        if head.startswith(magic):
            return Defect("compressed", detail=f"byte 0: the file is compressed ({name})")
    for mark, code, name in _ENCODINGS:
        if head.startswith(mark):
            return Defect(code, detail=f"byte 0: the file is {name}, not UTF-8")
    for magic, name in _BINARY:
        if head.startswith(magic):
            return Defect("not_text", detail=f"byte 0: the file is {name}, not JSON lines")
    return _unmarked(head)


def _unmarked(head: bytes) -> Defect | None:
    if head[4:8] == b"ftyp":
        return Defect("not_text", detail="byte 0: the file is a film (MP4), not JSON lines")
    if head[4:9] == b"\0\0\0\0{":  # the length of the header in 8 bytes, then the header
        return Defect("not_text", detail="byte 0: the file is safetensors, a model, not JSON lines")
    pattern = tuple(byte == 0 for byte in head[:4])
    if pattern in _NULS:
        code, name = _NULS[pattern]
        if code == "encoding_utf32" and not _decodes(head, name):
            return Defect("not_text", detail="byte 0: the file is binary, not JSON lines")
        return Defect(code, detail=f"byte 0: the file is {name} without a mark, not UTF-8")
    if head[257:262] == b"ustar":
        return Defect("compressed", detail="the file is a tar archive")
    return _binary(head)


def _decodes(head: bytes, name: str) -> bool:
    """Whether the first KiB is UTF-32: TFRecord, BSON and other binary files begin with a small
    number in 4 bytes too."""
    piece = head[: min(len(head), 1024) & ~3]
    try:
        return "\0" not in piece.decode(name.lower().replace(" ", "-"))
    except UnicodeDecodeError:
        return False


def _binary(head: bytes) -> Defect | None:
    """Neither a row nor text: more than a fifth of the head is control bytes other than NUL,
    which a power loss leaves in good files."""
    odd = sum(1 for byte in head if 0 < byte < 32 and byte not in b"\t\n\r\f\b\x1b")
    if odd * 5 <= len(head):
        return None
    return Defect("not_text", detail="the file is binary, not JSON lines")
