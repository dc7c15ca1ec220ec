"""Detectors of keys, tokens and passwords."""

from __future__ import annotations

import re

from finetune_gateway.text.pii_detector import Detector, finder, masked
from finetune_gateway.text.regex import LazyPattern

KEYS = (
    "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "hf_", "AKIA", "ASIA",
    "AIza", "xox", "xapp-", "sk_live_", "rk_live_", "sk_test_", "rk_test_", "whsec_", "SG.", "npm_",
    "pypi-", "gsk_", "xai-", "r8_", "ya29.", "dop_v1_", "eyJ", "GOCSPX-", "fw_", "pplx-", "tgp_v1_",
    "nvapi-", "dapi", "shpat_", "shpca_", "shppa_", "shpss_", "ntn_", "lin_api_", "PMAK-",
    "dckr_pat_", "figd_", "NRAK-", "hvs.", "ATATT3", "glsa_", "glc_", "sntrys_", "sntryu_",
    "sq0atp-", "sq0csp-",
)  # fmt: skip

TELEGRAM = ":AA"
# Words at the end of the name of what is set to a key: API_KEY=..., "access_token": "..."
NAMED_KEYS = (
    "key", "Key", "KEY", "token", "Token", "TOKEN", "secret", "Secret", "SECRET",
)  # fmt: skip
HEX_KEYS = ("SK", "key-")  # Twilio, Mailgun
HEADERS = ("earer ", "EARER ", "Basic ")
LOGIN = "://"  # an address with a password
OTHER_KEYS = (
    "ecret_access_key", "ECRET_ACCESS_KEY", "ecretAccessKey", "AccountKey=", "SharedAccessKey=",
    "hooks.slack.com", TELEGRAM, *HEX_KEYS,
)  # fmt: skip
PASSWORDS = ("assword", "asswort", "ASSWORD", "asswd", "ASSWD", "pwd", "Pwd", "PWD")


_KEY = (
    r"(?<![A-Za-z0-9_-])(?:sk-(?:[a-z]{2,12}-)?[A-Za-z0-9_-]{20,250}"
    r"|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,60}"
    r"|hf_[A-Za-z0-9]{30,40}|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])|AIza[A-Za-z0-9_-]{35}"
    r"|xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,250}|xapp-\d-[A-Za-z0-9-]{20,250}"
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,250}|whsec_[A-Za-z0-9+/=]{24,120}"
    r"|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{30,64}|npm_[A-Za-z0-9]{36}"
    r"|pypi-[A-Za-z0-9_-]{50,250}|gsk_[A-Za-z0-9]{40,60}|xai-[A-Za-z0-9]{60,90}"
    r"|r8_[A-Za-z0-9]{37,40}|ya29\.[A-Za-z0-9_-]{30,250}|dop_v1_[a-f0-9]{64}"
    r"|GOCSPX-[A-Za-z0-9_-]{28}|fw_[A-Za-z0-9]{22,30}(?![A-Za-z0-9_])|pplx-[A-Za-z0-9]{40,64}"
    r"|tgp_v1_[A-Za-z0-9_-]{40,60}|nvapi-[A-Za-z0-9_-]{60,80}|dapi[a-f0-9]{32}(?:-\d)?(?![A-Za-z0-9_])"
    r"|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|ntn_[A-Za-z0-9]{40,50}|lin_api_[A-Za-z0-9]{40}"
    r"|PMAK-[a-f0-9]{24}-[a-f0-9]{34}|dckr_pat_[A-Za-z0-9_-]{27}|figd_[A-Za-z0-9_-]{40}"
    r"|NRAK-[A-Z0-9]{27}|hvs\.[A-Za-z0-9_-]{24,250}|ATATT3[A-Za-z0-9_=-]{60,250}"
    r"|glsa_[A-Za-z0-9]{32}_[a-fA-F0-9]{8}|glc_[A-Za-z0-9+/=]{32,250}"
    r"|sntry[su]_[A-Za-z0-9+/=_-]{60,250}|sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}"
    r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,2000})"
)
# Keys that are recognized by the words beside them, or by their whole form.
_NAMED_KEY = (
    r"(?:[sS]ecret_access_key|SECRET_ACCESS_KEY|[sS]ecretAccessKey)[\"']?[ \t]{0,3}[:=][ \t]{0,3}"
    r"[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
)
_WHOLE_KEY = (
    r"(?:(?<=AccountKey=)|(?<=SharedAccessKey=))[A-Za-z0-9+/]{42,86}={1,2}"
    r"|hooks\.slack\.com/(?:services|workflows)/T[A-Z0-9]{6,14}/[AB][A-Z0-9]{6,14}/[A-Za-z0-9/]{16,60}"
    r"|(?<![A-Za-z0-9_-])[0-9]{8,10}:AA[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])"
)
_ASSIGNED_KEY = (
    r"(?<![A-Za-z0-9_])(?:(?:[A-Z][A-Z0-9]{0,30}_){1,6}(?:KEY|TOKEN|SECRET)"
    r"|(?i:(?:api|access|auth|secret|client|private|service)[_ -]?(?:key|token|secret)))"
    r"[\"']?[ \t]{0,3}(?:[:=]|is)[ \t]{0,3}[\"']?([A-Za-z0-9_/+.-]{20,250}={0,2})"
    r"(?![A-Za-z0-9_/+=(\[-])"
)
_HEX_KEY = r"(?<![A-Za-z0-9_-])(?:SK|key-)[a-f0-9]{32}(?![A-Za-z0-9_])"
_HEADER = (
    r"(?:\b(?i:bearer) ([A-Za-z0-9_/+.-]{20,2000}={0,2})(?![A-Za-z0-9_/+=-])"
    r"|\bBasic ([A-Za-z0-9+/]{16,200}={0,2})(?![A-Za-z0-9+/=]))"
)
_LOGIN = (
    r"://[A-Za-z0-9._%+-]{0,64}:([A-Za-z0-9._~!*+,;=%-]{8,64})@"
    r"(?!localhost|127\.|host\b|[A-Za-z0-9.-]*example)"
)
# Set by an equals sign, or named at the beginning of a line, after a comma or "my"; not what an
# assistant makes up ("Your new password: ...").
_PASSWORD = (
    r"(?:(?i:passwor[dt]|passwd|pwd) {0,3}=[ \t]{0,3}"
    r"|(?:^|[\n,;/(] ?|\b(?i:my|use|with|and) )(?i:passwor[dt]|passwd|pwd)(?::| is)[ \t]{1,3})"
    r"[\"']?([A-Za-z0-9!@#$%^&*_+~?-]{8,40})(?![!-~](?<![\"'<,;.])|[.][!-~](?<![\"'<]))"
)
_BLOCK = r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"


def _is_key(text: str) -> bool:
    """Return True if the text looks random: placeholders have few distinct letters, names of CSS
    classes a single case."""
    mixed = text[4:] != text[4:].lower() or any(char in "0123456789" for char in text)
    return mixed and len(set(text)) >= 10


_CLASS_CHANGE = LazyPattern(
    "(?<=[a-z])[A-Z0-9]|(?<=[A-Z])[a-z0-9]|(?<=[0-9])[A-Za-z]",
)
_HEX = LazyPattern("[0-9a-f-]+")


def _is_random(text: str) -> bool:
    """Return True if small letters, capitals and digits alternate as they do by chance, not as in
    words, names of variables and placeholders."""
    share = 0.3 if _HEX.fullmatch(text) else 0.45
    return _is_key(text) and len(_CLASS_CHANGE.findall(text)) >= share * len(text)


def _is_login(text: str) -> bool:
    """Return True unless the password of an address is a word, such as "password"."""
    mixed = text != text.lower() or any(char in "0123456789" for char in text)
    return mixed and len(set(text)) >= 7


def _is_password(text: str) -> bool:
    """Require letters of both cases, digits and a sign: identifiers in code lack one of them."""
    kinds = ("[a-z]", "[A-Z]", "[0-9]", "[!@#$%^&*+~?]")
    return all(re.search(kind, text) for kind in kinds)


def _private_key(text: str) -> str:
    """Return the first line of a key block, which reveals nothing of the key."""
    return repr(text)


SECRETS = (
    Detector("secret", "a key or token", KEYS, finder(_KEY, _is_key), masked),
    Detector(
        "secret",
        "a key or token",
        OTHER_KEYS,
        finder(f"{_NAMED_KEY}|{_WHOLE_KEY}|{_HEX_KEY}", _is_key),
        masked,
    ),
    Detector(
        "secret",
        "a key or token",
        (*NAMED_KEYS, *HEADERS),
        finder(f"{_ASSIGNED_KEY}|{_HEADER}", _is_random),
        masked,
    ),
    Detector("secret", "a password", (LOGIN,), finder(_LOGIN, _is_login), masked),
    Detector("secret", "a password", PASSWORDS, finder(_PASSWORD, _is_password), masked),
    Detector("secret", "a private key", ("-----BEGIN",), finder(_BLOCK), _private_key),
)
