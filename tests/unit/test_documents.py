"""What the documents name exists, and what exists is named."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from callback_worker.settings import CallbackWorkerSettings
from gateway.settings import GatewaySettings
from ops.maintain import MaintainSettings
from ops.provision import ProvisionSettings
from session_worker.settings import SessionWorkerSettings

ROOT = Path(__file__).resolve().parents[2]
# How a gateway of several processes hands its socket to them; nobody else sets it.
INTERNAL = {"GATEWAY_LISTENING_FDS"}
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#]+)")


@pytest.mark.parametrize(
    "model",
    [GatewaySettings, SessionWorkerSettings, CallbackWorkerSettings, ProvisionSettings, MaintainSettings],
    ids=lambda m: m.__name__,
)
def test_every_setting_is_documented(model: type[BaseSettings]) -> None:
    documented = (ROOT / "docs/configuration.md").read_text()
    names = {str(field.validation_alias or name).upper() for name, field in model.model_fields.items()} - INTERNAL
    assert not {name for name in names if f"`{name}`" not in documented}


@pytest.mark.parametrize("document", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda p: p.name)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
