"""`python -m ops callback-secret`: what a client is given so that it can verify its callbacks."""

import typer
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared import settings
from shared.callbacks import ANONYMOUS
from shared.signing_keys import SigningKeys, keys_of
from shared.signing_pair import OptionalSigningPair

EXIT_BAD_USAGE = 2


class KeySettings(BaseSettings):
    """The master keys, as the callback worker reads them."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    callback_signing_keys: SigningKeys


class PairSettings(BaseSettings):
    """The master key pair, where there is one."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    callback_ed25519_key: OptionalSigningPair = None


def main(client: str | None, *, public: bool) -> int:
    """Print the client's secrets, newest first, or its public key; return the exit status."""
    if public:
        return _show_public(client or ANONYMOUS)
    if client is None:
        return _fault(f"Name the client whose secret is wanted; `{ANONYMOUS}` is who calls without an API key.")
    for key in keys_of(client, settings.load(KeySettings).callback_signing_keys):
        typer.echo(key.text())
    return 0


def _show_public(client: str) -> int:
    pair = settings.load(PairSettings).callback_ed25519_key
    if pair is None:
        return _fault("CALLBACK_ED25519_KEY: is not set, so nothing is signed with it")
    typer.echo(pair.of_client(client).public_text())
    return 0


def _fault(sentence: str) -> int:
    typer.echo(sentence, err=True)
    return EXIT_BAD_USAGE
