"""Coverage-guided fuzzing (Atheris, which is libFuzzer) of what reads foreign bytes.

    python tests/fuzz/rows.py parser 600     the row parser, for 600 seconds
    python tests/fuzz/rows.py gate 600       the whole gate, --fix and convert, on small files

Ends with 0 when nothing was found; the bytes that led to a bug are kept in build/fuzz.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris
from seeds import FILES, WORDS

with atheris.instrument_imports(include=["finetune_gateway"]):
    import targets

KEPT = Path("build/fuzz")
MEMORY = Path("/dev/shm")  # where the files of the gate need no disk


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """Half the time a change of the JSON, half the time libFuzzer's own change of the bytes."""
    chance = random.Random(seed)
    made = targets.restructured(data, chance) if chance.random() < 0.5 else data
    return made if made != data and len(made) <= max_size else bytes(atheris.Mutate(data, max_size))


def main(target: str, seconds: int) -> None:
    """Fuzz for so long."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        corpus, words = folder / "corpus", folder / "words"
        corpus.mkdir()
        for number, raw in enumerate(FILES):
            first = bytes([number * 37 % 256]) if target == "gate" else b""
            (corpus / str(number)).write_bytes(first + raw)
        words.write_text("".join(f'"{_hex(word)}"\n' for word in WORDS))
        options = [
            f"-max_total_time={seconds}", f"-dict={words}", f"-artifact_prefix={KEPT}/{target}-",
            "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1",
        ]  # fmt: skip
        run = targets.Gate(folder).one if target == "gate" else targets.one_parser
        own = {"custom_mutator": mutated} if target == "gate" else {}
        atheris.Setup([sys.argv[0], *options, str(corpus)], run, **own)
        atheris.Fuzz()


def _hex(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
