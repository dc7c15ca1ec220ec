"""Recognize the type of a file by its first bytes, before it is read as lines."""

from __future__ import annotations

from finetune_gateway.findings import Defect

HEAD = 4096  # bytes read
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
    (b"RIFF", "audio, an image or a video (RIFF)"),
    (b"OggS", "Ogg"),
    (b"fLaC", "FLAC"),
    (b"ID3", "MP3"),
    (b"GGUF", "GGUF, a model"),
    (b"{\\rtf", "RTF"),
)
_ENCODINGS = (  # longer marks first: UTF-32 LE starts like UTF-16 LE
    (b"\xff\xfe\x00\x00", "encoding_utf32", "UTF-32 LE with a byte order mark"),
    (b"\x00\x00\xfe\xff", "encoding_utf32", "UTF-32 BE with a byte order mark"),
    (b"\xff\xfe", "encoding_utf16", "UTF-16 LE with a byte order mark"),
    (b"\xfe\xff", "encoding_utf16", "UTF-16 BE with a byte order mark"),
)
# JSON starts with ASCII: NULs in the first 4 bytes identify the encoding (RFC 4627, section 3).
_NULS = {
    (True, True, True, False): ("encoding_utf32", "UTF-32 BE"),
    (False, True, True, True): ("encoding_utf32", "UTF-32 LE"),
    (True, False, True, False): ("encoding_utf16", "UTF-16 BE"),
    (False, True, False, True): ("encoding_utf16", "UTF-16 LE"),
}


def file_defect(head: bytes) -> Defect | None:
    """Return why the file cannot be lines of JSON, or None."""
    for magic, name in _COMPRESSED:
        if head.startswith(magic):
            return Defect("compressed", detail=f"byte 0: the file is compressed ({name})")
    for mark, code, name in _ENCODINGS:
        if head.startswith(mark):
            return Defect(code, detail=f"byte 0: the file is {name}, not UTF-8")
    for magic, name in _BINARY:
        if head.startswith(magic):
            return Defect("not_text", detail=f"byte 0: the file is {name}, not JSON lines")
    return _defect_without_mark(head)


def _defect_without_mark(head: bytes) -> Defect | None:
    if head[4:8] == b"ftyp":
        return Defect("not_text", detail="byte 0: the file is a video (MP4), not JSON lines")
    if head[4:9] == b"\0\0\0\0{":  # the length of the header in 8 bytes, then the header
        return Defect("not_text", detail="byte 0: the file is safetensors, a model, not JSON lines")
    pattern = tuple(byte == 0 for byte in head[:4])
    if pattern in _NULS:
        code, name = _NULS[pattern]
        if code == "encoding_utf32" and not _is_utf32(head, name):
            return Defect("not_text", detail="byte 0: the file is binary, not JSON lines")
        return Defect(code, detail=f"byte 0: the file is {name} without a mark, not UTF-8")
    if head[257:262] == b"ustar":
        return Defect("compressed", detail="the file is a tar archive")
    return _binary_defect(head)


def _is_utf32(head: bytes, name: str) -> bool:
    """Return True if the first KiB is UTF-32: TFRecord, BSON and other binary files also start
    with a small number in 4 bytes."""
    piece = head[: min(len(head), 1024) & ~3]
    try:
        return "\0" not in piece.decode(name.lower().replace(" ", "-"))
    except UnicodeDecodeError:
        return False


def _binary_defect(head: bytes) -> Defect | None:
    """Return a defect if more than a fifth of the head is control bytes. NUL does not count: a
    power loss leaves NULs in text files."""
    odd = sum(1 for byte in head if 0 < byte < 32 and byte not in b"\t\n\r\f\b\x1b")
    if odd * 5 <= len(head):
        return None
    return Defect("not_text", detail="the file is binary, not JSON lines")
