"""Personal data and secrets planted in sentences: kinds x scripts x disguises, all from a seed.

Made from the rules of each number, not from the patterns that look for it.
"""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

SCRIPTS = ("Latin", "Chinese", "Japanese", "Korean", "Thai", "Cyrillic", "Arabic", "Devanagari")
# What stands beside a value: with a space or without, with the commas and full stops of the script.
AROUND = {
    "Latin": ("Please note {}.", "It is {}, thanks", "Bitte notieren: {}!", "Mes données : {} ;"),
    "Chinese": ("请联系{}谢谢", "我的资料是{},请记下。", "请记下:{}。", "这是{},收到请回复"),
    "Japanese": (
        "連絡は{}まで",
        "こちらは{}です。",
        "私の情報:{}、以上",
        "登録は「{}」でお願いします",
    ),
    "Korean": ("여기는 {}입니다", "제 정보는 {}이고 곧 보내요", "정보: {}.", "{}로 연락 주세요"),
    "Cyrillic": ("Вот мои данные: {}.", "Это {}, спасибо", "Данные «{}»", "Запишите {}!"),
    "Arabic": ("بياناتي هي {} شكرا", "سجل {}، من فضلك", "البيانات: {}.", "هذا {} لي"),
    "Devanagari": ("मेरा विवरण {} है।", "कृपया {} लिखें", "विवरण: {}।", "यह {} है, धन्यवाद"),
    "Thai": ("ติดต่อ{}ได้เลย", "ข้อมูลคือ {} นะครับ", "ข้อมูล:{}", "นี่คือ{}ครับ"),
}
NAMES = ("maria.lopez", "j_smith", "li.wei88", "k.tanaka", "minjun", "somchai.p", "a.weber+shop")
HOSTS = (
    "acme-shop.com",
    "mail.kaiwa.co.jp",
    "hanbit.co.kr",
    "sabai.co.th",
    "weber-gmbh.de",
    "qq.cn",
)


@dataclass(frozen=True)
class Planted:
    """A value in a text, and what it is there as."""

    kind: str
    script: str
    form: str
    text: str


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def luhn(body: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return f"{body}{-total % 10}"


def email(rng: random.Random, _: str) -> str:
    return f"{rng.choice(NAMES)}@{rng.choice(HOSTS)}"


# Mobile numbers of the country, national and international: a digit for each #.
PHONES = {
    "Latin": ("+49 151 ########", "+44 7### ######", "+1 415 2## ####", "+33 6 ## ## ## ##"),
    "Chinese": ("138########", "+86 139 #### ####", "186-####-####"),
    "Japanese": ("090-####-####", "080########", "+81 90-####-####"),
    "Korean": ("010-####-####", "010########", "+82 10-####-####"),
    "Thai": ("081-###-####", "089#######", "+66 81 ### ####"),
    "Cyrillic": ("8 (912) ###-##-##", "8916#######", "+7 925 ### ## ##"),
    "Arabic": ("050#######", "+966 55 ### ####", "0101#######"),
    "Devanagari": ("98########", "+91 98### #####"),
}


def phone(rng: random.Random, script: str) -> str:
    form = rng.choice(PHONES[script])
    return "".join(rng.choice(string.digits) if char == "#" else char for char in form)


def card(rng: random.Random, _: str) -> str:
    number = luhn(rng.choice(("45", "51", "35")) + digits(rng, 13))
    parts = [number[at : at + 4] for at in range(0, 16, 4)]
    return rng.choice((number, " ".join(parts), "-".join(parts)))


def iban(rng: random.Random, _: str) -> str:
    body = digits(rng, 18)
    check = 98 - int(f"{body}131400") % 97
    number = f"DE{check:02}{body}"
    spaced = " ".join(number[at : at + 4] for at in range(0, 22, 4))
    return rng.choice((number, spaced))


def identity(rng: random.Random, script: str) -> str:
    """The identity number of the country, with its check digit."""
    born = date(1950, 1, 1) + timedelta(days=rng.randrange(18_000))
    if script == "Chinese":
        body = f"{rng.choice(('110105', '310104', '440305'))}{born:%Y%m%d}{digits(rng, 3)}"
        total = sum(int(digit) * pow(2, 17 - at, 11) for at, digit in enumerate(body))
        return body + "10X98765432"[total % 11]
    if script == "Korean":
        body = f"{born:%y%m%d}{rng.choice('12')}{digits(rng, 5)}"
        total = sum(
            int(d) * w for d, w in zip(body, [2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5], strict=True)
        )
        return f"{body[:6]}-{body[6:]}{(11 - total % 11) % 10}"
    if script == "Thai":
        body = rng.choice("1345") + digits(rng, 11)
        whole = body + str((11 - sum(int(d) * (13 - at) for at, d in enumerate(body)) % 11) % 10)
        parts = (whole[0], whole[1:5], whole[5:10], whole[10:12], whole[12])
        return rng.choice(("-".join(parts), " ".join(parts)))
    if script == "Japanese":
        body = digits(rng, 11)
        rest = (
            sum(int(d) * w for d, w in zip(body, [6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2], strict=True))
            % 11
        )
        return f"マイナンバー{body}{11 - rest if rest > 1 else 0}"
    return f"{rng.randint(100, 665):03}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}"


def key(rng: random.Random, _: str) -> str:
    letters = string.ascii_letters + string.digits
    return f"sk-proj-{''.join(rng.choices(letters, k=40))}"


KINDS: dict[str, Callable[[random.Random, str], str]] = {
    "an e-mail address": email, "a telephone number": phone, "a card number": card,
    "an IBAN": iban, "an identity number": identity, "a key or token": key,
}  # fmt: skip


# -- disguises ------------------------------------------------------------------------------


def full_width(value: str) -> str:
    return "".join(
        chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else "\u3000" if c == " " else c for c in value
    )


def zero_width(value: str, rng: random.Random) -> str:
    at = rng.choice([n for n in range(1, len(value)) if value[n - 1 : n + 1].isascii()])
    return value[:at] + rng.choice("\u200b\u2060\u200d\ufeff\u00ad") + value[at:]


def in_base64(value: str, rng: random.Random, script: str) -> str:
    return base64.b64encode(rng.choice(AROUND[script]).format(value).encode()).decode()


def spelt(value: str, rng: random.Random) -> str:
    name, _, host = value.partition("@")
    at, dot = rng.choice(
        (
            ("(at)", "."),
            (" [at] ", " [dot] "),
            (" at ", " dot "),
            (" (AT) ", "."),
            ("{at}", "(dot)"),
        )
    )
    return f"{name}{at}{host.replace('.', dot)}"


def disguised(value: str, kind: str, form: str, script: str, rng: random.Random) -> str:
    if form == "full-width":
        return full_width(value)
    if form == "zero-width" and kind == "an e-mail address" and script != "Thai":
        return spelt(value, rng)
    if form == "zero-width":
        return zero_width(value, rng)
    return in_base64(value, rng, script) if form == "base64" else value


def planted(count: int, seed: int) -> Iterator[Planted]:
    """Yield so many values: half of them plain, the others in each disguise in turn."""
    rng = random.Random(seed)
    kinds, forms = [*KINDS], ["plain", "full-width", "plain", "zero-width", "plain", "base64"]
    for number in range(count):
        script = SCRIPTS[number % len(SCRIPTS)]
        kind = kinds[number // len(SCRIPTS) % len(kinds)]
        form = forms[number // (len(SCRIPTS) * len(kinds)) % len(forms)]
        hidden = disguised(KINDS[kind](rng, script), kind, form, script, rng)
        yield Planted(kind, script, form, rng.choice(AROUND[script]).format(hidden))
