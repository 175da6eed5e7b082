"""What the documents name exists, and what exists is named."""

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from pydantic_settings import BaseSettings

# Whatever a process measures is registered once its `__main__` is imported.
import callback_worker.__main__  # noqa: F401
import gateway.__main__  # noqa: F401
import session_worker.__main__  # noqa: F401
from callback_worker.settings import CallbackWorkerSettings
from gateway.settings import GatewaySettings
from ops.maintain import MaintainSettings
from ops.provision import ProvisionSettings
from session_worker.settings import SessionWorkerSettings

ROOT = Path(__file__).resolve().parents[2]
# How a gateway of several processes hands its socket to them; nobody else sets it.
INTERNAL = {"GATEWAY_LISTENING_FDS"}
TEST_FILE = re.compile(r"\btests/[\w/]+\.py\b")
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


def test_every_metric_is_documented_and_no_other() -> None:
    tables = (ROOT / "docs/metrics.md").read_text().partition("## Alerts")[0]
    documented = set(re.findall(r"^\| `(voltline_\w+)`", tables, re.MULTILINE))
    families = [family for family in REGISTRY.collect() if family.name.startswith("voltline_")]
    assert documented == {f"{each.name}{'_total' if each.type == 'counter' else ''}" for each in families}


@pytest.mark.parametrize("document", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda p: p.name)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_test_file_that_a_document_names_is_there() -> None:
    named = {name for document in ROOT.glob("docs/**/*.md") for name in TEST_FILE.findall(document.read_text())}
    assert not {name for name in named if not (ROOT / name).exists()}


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
