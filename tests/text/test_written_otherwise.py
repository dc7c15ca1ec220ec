"""Personal data and keys in arguments of calls, and in forms that people use beside the plain."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_gateway.text.pii import find_pii
from finetune_gateway.validation.detectors import text_defects

CHARS = "0a1B2c3D4e5F6g7H8i9J"  # of made-up keys
HEXES = "0a1b2c3d4e5f6789" * 4


def kinds_in(row: dict[str, Any], regions: tuple[str, ...] = ()) -> set[str]:
    """The kinds that are found in a row, whether its JSON escapes characters or not."""
    found = [
        {
            one.kind
            for one in text_defects(json.dumps(row, ensure_ascii=escaped), row, regions)
            if one.code in ("pii", "secret")
        }
        for escaped in (True, False)
    ]
    assert found[0] == found[1]
    return found[0]


def call_with(note: str, depth: int) -> dict[str, Any]:
    """A row with a call, whose arguments are JSON, in JSON again if the depth is more."""
    for _ in range(depth):
        note = json.dumps({"note": note})
    call = {"id": "c1", "type": "function", "function": {"name": "save", "arguments": note}}
    return {"messages": [{"role": "assistant", "tool_calls": [call]}]}


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ลูกค้าฝาก +66.81.234.3997 ไว้", "a telephone number"),
        ("你好\n+49 1512 3456292", "a telephone number"),
        ("「+886\xa02\xa02123\xa06374」", "a telephone number"),
        ("Пишите: иван@почта.рф!", "an e-mail address"),
        ("ａｎｎ＠ａｃｍｅ－ｓｈｏｐ．ｃｏｍ", "an e-mail address"),
        ("o_brien@ta\u200eta\u200eindia.co.in", "an e-mail address"),
        ("卡号4111222233334448谢谢", "a card number"),
        ("电话（010）62345678", "a telephone number"),
        ("总机0755－83765566转8号", "a telephone number"),
        ("ご登録DE21874050579092876297に", "an IBAN"),
        ("マイナンバーカードの番号は8584-5110-0860です", "an identity number"),
        ("고객 010815\u20114773689", "an identity number"),
        ("密钥AKIA4NCMC\u200bCF2J3KYVY37。", "a key or token"),
        ("😀 maria@acme-shop.com 😀", "an e-mail address"),
    ],
)
def test_arguments_are_searched_as_they_are_read(text: str, kind: str, depth: int) -> None:
    """Clients write them as JSON with escapes: a letter beside a number is six characters there."""
    assert kinds_in(call_with(text, depth)) == {kind}


def test_what_is_masked_in_arguments_is_what_is_written() -> None:
    """The match is a part of the text, its escapes included."""
    text = json.dumps({"to": "ann\u200b@acme-shop.com", "next": "卡号4111222233334448谢谢"})
    found = dict(find_pii(text))
    assert found["an e-mail address"] == r"ann\u200b@acme-shop.com"
    assert found["a card number"] == "4111222233334448"
    assert all(value in text for value in found.values())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("карта 2200 1980 1506 3114, да", "a card number"),  # Mir
        ("Maestro 6759190574652490.", "a card number"),
        ("卡号622848 5157819758718。", "a card number"),  # UnionPay
        ("银联6228485157819758718", "a card number"),
        ("IBAN de85 3463 2073 8451 9034 80 danke", "an IBAN"),
        ("Schreib t.mueller63 @ yahoo.co.jp", "an e-mail address"),
        ("hana [at] mohr [dot] family", "an e-mail address"),
        ("ali.h89_at_hotmail.co.uk", "an e-mail address"),
        ("li.wei95AToutlook.de", "an e-mail address"),
        ("ivan собака mail точка ru", "an e-mail address"),
        ("kim골뱅이naver.com 으로", "an e-mail address"),
        ("请发到password=aa6OOaAa1!xVNG。", "a password"),
        ("postgres://app:XyO7WNp8q6UQ@db.acme-shop.com/x", "a password"),
    ],
)
def test_usual_forms_are_found(text: str, kind: str) -> None:
    """Cards of other networks, small letters, signs in words."""
    assert kind in kinds_in({"text": text})
    assert any(name == kind for name, _ in find_pii(text))


KEYS = (
    f"GOCSPX-{(CHARS * 2)[:28]}", f"fw_{CHARS}aB", f"pplx-{CHARS * 2}aB34cD78", f"dapi{HEXES[:32]}",
    f"shpat_{HEXES[:32]}", f"nvapi-{CHARS * 3}aB-_", f"ntn_{CHARS * 2}aB4cD6", f"hvs.{CHARS * 4}",
    f"lin_api_{CHARS * 2}", f"PMAK-{HEXES[:24]}-{HEXES[:34]}", f"dckr_pat_{CHARS}aB3d-F7",
    f"figd_{CHARS * 2}", f"NRAK-{CHARS.upper()}AB3D5F7", f"ATATT3xFf{CHARS * 4}",
    f"glsa_{(CHARS * 2)[:32]}_0a1b2c3d", f"sntrys_{CHARS * 4}", f"sq0atp-{CHARS}aB",
    f"tgp_v1_{CHARS * 2}aB3", f"SK{HEXES[:32]}", f"key-{HEXES[:32]}",
    f"MISTRAL_API_KEY={CHARS}aB3dE5", f'"access_token": "{CHARS * 2}"',
    f"WANDB_API_KEY={HEXES[:40]}",
    f"Authorization: Bearer {CHARS * 2}", "Authorization: Basic b3BzOkRYeURRWFhsYTEwRldB",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_more_services_are_found(key: str) -> None:
    """By their beginnings, or by the name of what they are set to; beside text in any script."""
    for text in (f"{key} ok", f"我的{key}谢谢", f"ของผม:{key}ครับ"):
        assert kinds_in({"text": text}) == {"a key or token"}, text


@pytest.mark.parametrize(
    "text",
    [
        "SECRET_KEY = get_secret_from_environment_variables()",
        "api_key: your-api-key-goes-here-12345", "api_key = getSecretFromEnvironment2x",
        "the secret key is kept-in-the-vault-of-the-bank-2020", "Basic authentication12345",
        "Authorization: Bearer YOUR_ACCESS_TOKEN_HERE", "Authorization: Bearer <token>",
        "api_key=settings.OPENAI_API_KEY_V2", "postgresql://user:password@localhost:5432/db",
        "https://user:Passw0rd!@git.example.com/x.git", "hvs.placeholder", "key-value-store",
        "W1 @ self.name and A @ B.T", "x = look_at_item.id", "look @ acme.com", "C:\\new\\table 12",
        r"$\frac{1}{2} \times 10 \nu$", "de12 is no account, nor is at20 the hour of the meeting",
    ],
)  # fmt: skip
def test_code_and_placeholders_are_left_alone(text: str) -> None:
    """Names of variables, words and formulas are no keys, addresses or numbers."""
    assert (
        {name for name, _ in find_pii(text)} <= {"an e-mail address"}
        if "://" in text
        else not (list(find_pii(text)))
    )
    assert not kinds_in({"text": text}) - {"an e-mail address"}


@pytest.mark.parametrize(
    ("name", "is_name"),
    [
        ("Иван Петров", True), ("José García", True), ("Müller_Anna", True), ("佐藤健", True),
        ("田中 太郎", True), ("Nguyễn Văn An", True), ("محمد علي", True), ("राहुल शर्मा", True),
        ("สมชาย ใจดี", True), ("Новый Пользователь", False), ("العميل الاول", False),
        ("用户一", False), ("ユーザー", False), ("Support Agent", False), ("weather_api", False),
    ],
)  # fmt: skip
def test_names_of_people_in_their_own_script(name: str, is_name: bool) -> None:
    """In the field "name" of a user's message."""
    row = {"messages": [{"role": "user", "name": name, "content": "Hi"}]}
    assert kinds_in(row) == ({"a name"} if is_name else set())


def test_a_number_of_a_region_may_follow_a_comma() -> None:
    """In Chinese a comma has no space behind it."""
    assert kinds_in({"text": "我想修改资料,5123 4567,麻烦"}, ("HK",)) == {"a telephone number"}
