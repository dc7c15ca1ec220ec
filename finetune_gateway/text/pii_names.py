"""Names of people in the field "name" of a message."""

from __future__ import annotations

import re

from finetune_gateway.text.regex import LazyPattern

_KEY = r'"name"[ \t\r]*:[ \t\r]*"'
# One of these matches the JSON of every row with a name that says something of a person.
HINTS = (
    rf"{_KEY}[A-Z][A-Za-z]+[_ -][A-Z]",
    rf'{_KEY}[^"]*(?:_at_|[0-9]{{7}})',
    rf'{_KEY}[^"]*(?:[^\x00-\x7f]|\\u)',
)
# Words that name a part somebody plays, not a person; the second group in other languages.
_WORDS = (
    "user customer client agent assistant bot support admin example test speaker person "
    "student teacher tutor doctor patient nurse expert human system tool function manager "
    "engineer editor critic writer reader reviewer analyst scientist planner coder developer "
    "interviewer team data product sales service help desk guest host player character "
    "narrator anonymous unknown new first second one two"
    " \u043f\u043e\u043b\u044c\u0437\u043e\u0432\u0430\u0442\u0435\u043b\u044c "
    "\u043a\u043b\u0438\u0435\u043d\u0442 \u0430\u0433\u0435\u043d\u0442 "
    "\u0430\u0441\u0441\u0438\u0441\u0442\u0435\u043d\u0442 \u0431\u043e\u0442 "
    "\u043e\u043f\u0435\u0440\u0430\u0442\u043e\u0440 "
    "\u043f\u043e\u0434\u0434\u0435\u0440\u0436\u043a\u0430 "
    "\u043c\u0435\u043d\u0435\u0434\u0436\u0435\u0440 \u0433\u043e\u0441\u0442\u044c "
    "\u0441\u0442\u0443\u0434\u0435\u043d\u0442 \u0443\u0447\u0438\u0442\u0435\u043b\u044c "
    "\u0639\u0645\u064a\u0644 \u0645\u0633\u062a\u062e\u062f\u0645 "
    "\u0645\u0633\u0627\u0639\u062f \u0627\u0644\u0639\u0645\u064a\u0644 "
    "\u0627\u0644\u0645\u0633\u062a\u062e\u062f\u0645 "
    "\u0909\u092a\u092f\u094b\u0917\u0915\u0930\u094d\u0924\u093e "
    "\u0917\u094d\u0930\u093e\u0939\u0915 \u0938\u0939\u093e\u092f\u0915 "
    "\u0e1c\u0e39\u0e49\u0e43\u0e0a\u0e49 \u0e25\u0e39\u0e01\u0e04\u0e49\u0e32 "
    "\u0e1c\u0e39\u0e49\u0e0a\u0e48\u0e27\u0e22 nutzer benutzer kunde kundin usuario cliente "
    "usu\u00e1rio utilisateur \u00e9tudiant"
)
_PARTS = frozenset(_WORDS.split())
# Common surnames in Chinese and Korean, and in Japanese.
_SURNAMES = (
    "\u738b\u674e\u5f20\u5f35\u5218\u5289\u9648\u9673\u6768\u694a\u8d75\u8d99\u9ec4\u9ec3\u5468"
    "\u5434\u5433\u5f90\u5b59\u5b6b\u80e1\u6731\u9ad8\u6797\u4f55\u90ed\u9a6c\u99ac\u7f57\u7f85"
    "\u6881\u5b8b\u90d1\u912d\u8c22\u8b1d\u97e9\u97d3\u5510\u51af\u4e8e\u8463\u8427\u7a0b\u66f9"
    "\u8881\u9093\u8bb8\u5085\u6c88\u66fe\u5f6d\u5415\uae40\uc774\ubc15\ucd5c\uc815\uac15\uc870"
    "\uc724\uc7a5\uc784\ud55c\uc624\uc11c\uc2e0\uad8c"
)
_JAPANESE = (
    "\u4f50\u85e4 \u9234\u6728 \u9ad8\u6a4b \u7530\u4e2d \u4f0a\u85e4 \u6e21\u8fba "
    "\u6e21\u9089 \u5c71\u672c \u4e2d\u6751 \u5c0f\u6797 \u52a0\u85e4 \u5409\u7530 "
    "\u5c71\u7530 \u4f50\u3005\u6728 \u5c71\u53e3 \u677e\u672c \u4e95\u4e0a \u6728\u6751 "
    "\u658e\u85e4 \u6589\u85e4 \u6e05\u6c34 \u5c71\u5d0e \u6c60\u7530 \u6a4b\u672c "
    "\u963f\u90e8 \u77f3\u5ddd \u524d\u7530 \u85e4\u7530 \u5c0f\u5ddd \u5f8c\u85e4 "
    "\u5ca1\u7530 \u9577\u8c37\u5ddd \u6751\u4e0a \u8fd1\u85e4 \u77f3\u4e95 \u5742\u672c "
    "\u9060\u85e4 \u9752\u6728 \u85e4\u4e95 \u897f\u6751 \u798f\u7530 \u592a\u7530 "
    "\u4e09\u6d66 \u85e4\u539f \u5ca1\u672c \u677e\u7530 \u4e2d\u5ddd \u4e2d\u91ce "
    "\u539f\u7530 \u5c0f\u91ce \u7af9\u5185"
).replace(" ", "|")
_SHORT_NAME = LazyPattern(
    f"[{_SURNAMES}][\u4e00-\u9fff\uac00-\ud7a3]{{1,2}}"
    f"|(?:{_JAPANESE})[ \u3000]?[\u3040-\u30ff\u4e00-\u9fff]{{1,4}}"
)
# Two to four words of Arabic, Devanagari or Thai letters, which have no capitals.
_UNCASED = LazyPattern(
    "|".join(
        f"[{letters}]+(?:[_ -][{letters}]+){{1,3}}"
        for letters in ("\u0600-\u06ff", "\u0900-\u097f", "\u0e01-\u0e4e")
    )
)


def is_person(name: str) -> bool:
    """Return True for the full name of a person, not of a part such as "Support Agent"."""
    words = re.split("[_ -]", name)
    if not _PARTS.isdisjoint(map(str.lower, words)):
        return False
    capitals = 2 <= len(words) <= 4 and all(map(_is_capitalized, words))
    return bool(capitals or _SHORT_NAME.fullmatch(name) or _UNCASED.fullmatch(name))


def _is_capitalized(word: str) -> bool:
    return len(word) > 1 and word.isalpha() and word[0].isupper() and word[1:].islower()
