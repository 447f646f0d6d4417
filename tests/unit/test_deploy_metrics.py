"""The dashboard and the alert rules speak of metrics that there are, and each alert has its page."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from safelight.adapters.metrics import Metrics
from safelight.adapters.tally import Counter, Histogram

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "safelight.json"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
OPERATE = ROOT / "docs" / "operate.md"

_NAME = re.compile(r"\bsafelight_[a-z0-9_]+\b")
_SELECTED = re.compile(r"\b(safelight_[a-z0-9_]+)\{([^}]*)\}")
_GROUPED = re.compile(r"by \(([^)]*)\)")
_ANY_LABELS = {"le", "instance"}


def exported() -> dict[str, set[str]]:
    """Every sample name that the program can export, with its labels."""
    found: dict[str, set[str]] = {}
    for collector, names in Metrics({}).registry._collector_to_names.items():
        labels = (
            collector.labels if isinstance(collector, Counter | Histogram) else getattr(collector, "_labelnames", ())
        )
        found |= {name: set(labels) for name in names}
    return found


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (variable["query"] for variable in dashboard["templating"]["list"])
    yield from (rule["expr"] for rule in alerts())


def test_every_name_is_exported() -> None:
    known = exported()
    named = {name for expression in expressions() for name in _NAME.findall(expression)}
    assert len(named) > 20
    assert named - known.keys() == set()


def test_every_label_is_one_of_its_metric() -> None:
    known = exported()
    for expression in expressions():
        names = set(_NAME.findall(expression)) & known.keys()
        labels = set.union(_ANY_LABELS, *(known[name] for name in names))
        grouped = {label.strip() for group in _GROUPED.findall(expression) for label in group.split(",")}
        assert grouped <= labels, expression
        for name, selected in _SELECTED.findall(expression):
            assert set(re.findall(r"(\w+)\s*=", selected)) <= known[name] | _ANY_LABELS, expression


def test_every_metric_of_ours_is_explained() -> None:
    told = OPERATE.read_text(encoding="utf-8")
    ours = {name for name in exported() if name.startswith("safelight_")}
    families = {re.sub(r"_(created|bucket|count|sum)$", "", name) for name in ours}
    shown = {name for name in families if not {f"{name}_total", f"{name}_info"} & families}
    assert {name for name in shown if f"`{name}`" not in told} == set()


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_has_its_runbook(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert ROOT / page == OPERATE
    assert anchor == rule["alert"].lower()
    assert f"### {rule['alert']}\n" in OPERATE.read_text(encoding="utf-8")


def test_every_panel_says_what_it_shows() -> None:
    panels = [panel for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    assert all(panel["title"] and panel["targets"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
