"""A token for Azure's management plane, of whoever is signed in; it is kept nowhere."""

from __future__ import annotations

import logging
import shutil
import subprocess
from importlib.util import find_spec

from finetune_gateway.errors import AuthenticationError, MissingDependency, raise_alone
from finetune_gateway.text.cleaning import visible

SCOPE = "https://management.azure.com/.default"
CLI = ("account", "get-access-token", "--scope", SCOPE, "--query", "accessToken", "-o", "tsv")
CLI_SECONDS = 60.0
SIGN_IN = "Sign in: az login. Then run it again."


def require() -> None:
    """Raise MissingDependency unless something here can get a token: azure-identity (the extra), or
    Azure's own command."""
    if not _has_identity() and shutil.which("az") is None:
        raise MissingDependency("Signing in to Azure", "azure")


def signed_in() -> str:
    """Return a token. Raises MissingDependency if nothing here can get one, AuthenticationError if
    nobody is signed in."""
    if _has_identity():
        return _checked(_from_identity())
    require()
    return _checked(_from_cli(shutil.which("az") or "az"))


def _has_identity() -> bool:
    try:
        return find_spec("azure.identity") is not None
    except ModuleNotFoundError:  # there is no package azure at all
        return False


def _from_identity() -> str:
    # Imported here: an optional package, and only deployments need it.
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import DefaultAzureCredential

    # It logs a page on each way that was not taken, which without a handler goes to stderr.
    logging.getLogger("azure.identity").addHandler(logging.NullHandler())
    credential = DefaultAzureCredential()
    try:
        return str(credential.get_token(SCOPE).token)
    except ClientAuthenticationError as exc:
        raise_alone(_refused(str(exc)))
    finally:
        credential.close()


def _from_cli(program: str) -> str:
    try:
        done = subprocess.run(
            [program, *CLI], capture_output=True, text=True, timeout=CLI_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise_alone(_refused(f"az: {type(exc).__name__}"))
    if done.returncode:
        raise _refused(done.stderr)
    return done.stdout.strip()


def _refused(why: str) -> AuthenticationError:
    first = next((line for line in visible(why).splitlines() if line.strip()), "nothing was said")
    return AuthenticationError(
        f"Azure gave no token: {first.strip()[:300]}", hint=SIGN_IN, backend="azure"
    )


def _checked(token: str) -> str:
    """Return a token that a header can have in it. Raises AuthenticationError."""
    if not token or not all("!" <= char <= "~" for char in token):
        raise AuthenticationError("Azure gave no token.", hint=SIGN_IN, backend="azure")
    return token
