"""Detector of e-mail addresses, spelt out or not: ``ann (at) acme dot com``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_gateway.text.pii_detector import Detector, masked
from finetune_gateway.text.regex import LazyPattern

# A letter of a script with spaces between words. In Chinese, Japanese and Thai an address has no
# space around it, and Korean appends particles: their letters end it.
_LETTER = (
    "A-Za-z0-9_\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u060b\u0610-\u061a\u0620-\u06d3"
    "\u06d5-\u0963\u0966-\u0dff\u10a0-\u10ff\u1200-\u177f\u1800-\u1fff\u2c00-\u2dff\ua4d0-\ua95f"
    "\ua980-\uabff\ufb00-\ufdff\ufe70-\ufefc"
)
_CJK = "\u0e01-\u0e4e\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
# What stands before an at sign, and what behind it.
_LOCAL_PART = LazyPattern(
    rf"(?<![{_LETTER}.+-])(?!git$)[{_LETTER}](?:[{_LETTER}.+'%-]{{0,62}}[{_LETTER}+-])?$"
)
_DOMAIN = LazyPattern(
    rf"@(?:[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?\.)+(?:(?![\d_])[{_LETTER}]){{2,24}}"
    rf"(?![{_LETTER}@-])(?!\()"
)
# The same, written in Chinese, Japanese, Korean or Thai as a whole.
_OTHER_LOCAL_PART = LazyPattern(f"[{_CJK}]{{1,20}}$")
_OTHER_DOMAIN = LazyPattern(
    rf"@[{_CJK}A-Za-z0-9-]{{1,60}}\."
    "(?:\u516c\u53f8|\u4e2d\u56fd|\u4e2d\u570b|\u7f51\u7edc|\u7f51\u5740|\u9999\u6e2f|\u53f0\u7063"
    "|\u53f0\u6e7e|\ud55c\uad6d|\ub2f7\ucef4|\u0e44\u0e17\u0e22|\u307f\u3093\u306a|\u30b3\u30e0)"
)
_PARTS = ((_LOCAL_PART, _DOMAIN), (_OTHER_LOCAL_PART, _OTHER_DOMAIN))
_SIGN = LazyPattern(rf"(?<=[{_LETTER}{_CJK}+-])@(?=[{_LETTER}{_CJK}])")
_LONGEST = 64  # characters of a local part


def _find_written(text: str) -> Iterator[str]:
    done = 0
    for sign in _SIGN.finditer(text):
        at = sign.start()
        for local_part, domain_part in _PARTS:
            domain = domain_part.match(text, at)
            local = local_part.search(text, max(done, at - _LONGEST), at) if domain else None
            if domain and local:
                yield text[local.start() : domain.end()]
                done = domain.end()
                break


# -- spelt out ----------------------------------------------------------------------------

# "At" in Russian, Korean, Japanese and Chinese, as it is said for the sign.
_AT_WORDS = (
    "\u0441\u043e\u0431\u0430\u043a\u0430|\uace8\ubc45\uc774"
    "|\u30a2\u30c3\u30c8\u30de\u30fc\u30af|\u827e\u7279"
)
_AT = LazyPattern(
    r"\s{0,2}[\[({<]\s?(?:at|AT|At|@|arroba)\s?[\])}>]\s{0,2}(?=[A-Za-z0-9])"
    r"|(?<=[A-Za-z0-9]) (?:at|AT|At|@) (?=[A-Za-z0-9])|(?<=[A-Za-z0-9])_at_(?=[A-Za-z0-9])"
    rf"|(?<=[a-z0-9])AT(?=[a-z])|(?<=[A-Za-z0-9]) ?(?:{_AT_WORDS}) ?(?=[A-Za-z0-9])"
)
_BRACKET_DOT = r"\s{0,2}[\[({<]\s?(?i:dot|punkt|punto|point|\.)\s?[\])}>]\s{0,2}"
_DOT = rf"(?:{_BRACKET_DOT}|\s{{1,2}}(?i:dot|\u0442\u043e\u0447\u043a\u0430)\s{{1,2}})"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,40}[A-Za-z0-9])?"
_TLD = (
    r"(?i:com|org|net|edu|gov|int|mil|info|biz|name|io|ai|app|dev|cloud|tech|online|shop|site|xyz"
    r"|eu|de|at|ch|fr|uk|ie|es|pt|it|nl|be|lu|dk|se|no|fi|is|pl|cz|sk|hu|ro|bg|gr|hr|si|rs|ua|by"
    r"|ru|kz|tr|il|ae|sa|eg|ir|pk|in|lk|bd|np|cn|hk|tw|jp|kr|th|vn|sg|my|ph|id|au|nz|ca|us|mx|br"
    r"|ar|cl|co|pe|ve|za|ng|ke|gh|ma|tn|me|tv|cc)(?![A-Za-z0-9_-])"
)
# After an "at" in brackets any domain counts; see also ``_is_address``.
_SPELT_DOMAIN = LazyPattern(
    rf"{_LABEL}(?:(?:{_DOT}|\.){_LABEL}){{0,3}}"
    rf"(?:(?:{_DOT}|\.){_TLD}|{_BRACKET_DOT}[A-Za-z]{{2,24}}(?![A-Za-z0-9_-]))"
)
# After a sign that code has too ("W @ x.name", "look_at_item.id") no word that an attribute may be.
_SURE_DOMAIN = LazyPattern(
    r"[A-Za-z0-9-]{3,}\.(?:[a-z0-9-]+\.)*(?:com|org|net|edu|gov|eu|de|ch|fr|uk|es|pt|nl|lu|dk|se|fi"
    r"|pl|cz|sk|hu|bg|gr|hr|ua|by|ru|kz|cn|hk|tw|jp|kr|th|vn|sg|ph|au|nz|ca|mx|br|(?:co|ac)\.[a-z]{2})"
)
_LOCAL = LazyPattern(
    rf"(?<![A-Za-z0-9_.+-])[A-Za-z0-9](?:[A-Za-z0-9._+-]|{_DOT}(?=[A-Za-z0-9])){{0,40}}$"
)
_MAIL = LazyPattern(
    r"(?i:e-?mail|\bmail|\bcontact|\breach|\bwrite|\u90ae\u7bb1|\u90ae\u4ef6|\u30e1\u30fc\u30eb"
    r"|\uc774\uba54\uc77c|\u0e2d\u0e35\u0e40\u0e21\u0e25)"
)
# "Look at acme dot com" names a site.
_WORDS = (
    "us me you them him her it look looked looking see seen online site website page here there "
    "available found find buy sold visit out be is are was not now only directly live"
)
_NO_LOCALS = frozenset(_WORDS.split())
_BEFORE = 80  # characters


def _find_spelt(text: str) -> Iterator[str]:
    for at in _AT.finditer(text):
        domain = _SPELT_DOMAIN.match(text, at.end())
        before = text[max(0, at.start() - _BEFORE) : at.start()]
        local = _LOCAL.search(before) if domain else None
        if domain and local and _is_address(at[0], local[0], domain[0], before):
            yield text[at.start() - len(local[0]) : domain.end()]


def _is_address(at: str, local: str, domain: str, before: str) -> bool:
    """Return True if words around an "at" are an address, not a place or code."""
    if at in (" @ ", "_at_", "AT"):
        sure = _SURE_DOMAIN.fullmatch(domain) or _MAIL.search(before)
        return local.lower() not in _NO_LOCALS and sure is not None
    if at.strip().lower() != "at":  # in brackets
        return True
    if re.search(r"(?i:dot)\W", domain):
        return local.lower() not in _NO_LOCALS
    return re.search(r"[._\d]", local) is not None and _MAIL.search(before) is not None


# -- reserved names -----------------------------------------------------------------------

# RFC 2606 and RFC 6761, and names that say that they stand for another. In 300 rows of made-up
# tool calls such names were 25 of 25 addresses (llamafactory_glaive_toolcall_en).
_RESERVED = LazyPattern(
    r"(?:[^@]*\.)?(?:test|example|invalid|localhost|example\.[a-z]{2,}(?:\.[a-z]{2,})?"
    r"|(?:company|domain)\.com|(?:your|my)-?(?:company|domain|website)\.[a-z.]{2,}"
    r"|your-?(?:org|organi[sz]ation|business|school|site|email|team)\.[a-z.]{2,})"
)
_NOBODY = LazyPattern(r"your[._-]?(?:e-?mail|name|address|user-?name|id)")


def is_reserved(address: str) -> bool:
    """Return True for an address under a name that is kept for examples and tests, or that says
    that it stands for another: ``yourname@yourdomain.com``."""
    plain = re.sub(_DOT, ".", _AT.sub("@", address) if "@" not in address else address)
    local, _, domain = re.sub(r"[\s\[\](){}<>]", "", plain).lower().rpartition("@")
    return bool(_RESERVED.fullmatch(domain) or _NOBODY.fullmatch(local))


_ESCAPED_WORDS = "|".join(
    "".join(rf"\\+u(?i:{ord(char):04x})" for char in word) for word in _AT_WORDS.split("|")
)
SPELT = ("an address spelt out",)  # no plain piece of text
HINTS = (
    r"[A-Za-z0-9._+-] {0,2}[\[({<] ?(?:at|AT|At|@|arroba) ?[\])}>] {0,2}[A-Za-z0-9]",
    r" (?:at|AT|At) [A-Za-z0-9.-]+(?: {1,2}(?i:dot) "
    r"| {0,2}[\[({<] ?(?i:dot|punkt|punto|point|\.) ?[\])}>])",
    r"[._0-9][A-Za-z0-9_]* (?:at|AT|At) [A-Za-z0-9-]+\.[A-Za-z]",
    r"[A-Za-z0-9](?: @ |_at_)[A-Za-z0-9-]{3,}\.[a-z]",
    r"[a-z0-9]AT[a-z][A-Za-z0-9-]{2,}\.[a-z]",
    rf"[A-Za-z0-9] ?(?:{_AT_WORDS}|{_ESCAPED_WORDS}) ?[A-Za-z0-9]",
)
DETECTORS = (
    Detector("pii", "an e-mail address", ("@",), _find_written, masked, is_reserved),
    Detector("pii", "an e-mail address", SPELT, _find_spelt, masked, is_reserved),
)
