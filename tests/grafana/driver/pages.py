"""What can be said of the files without running them: the dashboard's form, and the names in it, in the rules and in the pages."""

import json
import re

from processes import GRAFANA, ROOT
from prometheus import PREFIXES, RECORDED, family, groupings, names, selectors

ROWS = ["Service level", "Tools", "Upstreams", "Commands (stdio)", "Sessions and streams", "Pools and balance", "Security", "Runtime"]
VARIABLES = ["datasource", "route", "upstream", "tool", "era"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
PAGES = ["docs/metrics.md", "docs/runbook.md", "docs/admin.md", "docs/guide.md", "docs/migrate.md", "grafana/README.md", "README.md"]
# Metrics that are in no panel and in no rule. Empty is best.
UNSHOWN = set()
# What Prometheus adds to every series, and what a histogram's series have.
ADDED = {"job", "instance", "le"}


def dashboard():
    return json.loads((GRAFANA / "dashboard.json").read_text())


def queries(board):
    """Every query of the dashboard, by where it stands, with the variables as Grafana fills them in when all is chosen."""
    found = {}
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            found[f"panel {panel['title']!r} {target['refId']}"] = target["expr"]
    for annotation in board["annotations"]["list"]:
        # What is marked is what is not zero, and nothing starts in this run.
        found[f"annotation {annotation['name']!r}"] = annotation["expr"].removesuffix(" > 0")
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            found[f"variable {variable['name']!r}"] = f"group by ({label}) ({metric})"
    return {where: filled(expression) for where, expression in found.items()}


def filled(expression):
    expression = expression.replace("$__rate_interval", "15s")
    return re.sub(r"\$(?:%s)\b" % "|".join(VARIABLES), ".*", expression)


def check_form(report, board):
    """What Grafana needs and does not complain about."""
    panels = board["panels"]
    report([panel["title"] for panel in panels if panel["type"] == "row"] == ROWS, "the rows of the dashboard")
    report([variable["name"] for variable in board["templating"]["list"]] == VARIABLES, "the variables of the dashboard")
    report(len({panel["id"] for panel in panels}) == len(panels), "each panel has an id of its own")
    report(len({panel["title"] for panel in panels}) == len(panels), "each panel has a title of its own")
    places = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        report(not cells & places and place["x"] + place["w"] <= 24, f"the place of panel {panel['title']!r}")
        places |= cells
        if panel["type"] == "row":
            continue
        targets = panel["targets"]
        report(panel["datasource"] == SOURCE and all(target["datasource"] == SOURCE for target in targets), f"the data source of panel {panel['title']!r}")
        report(panel["fieldConfig"]["defaults"].get("unit"), f"the unit of panel {panel['title']!r}")
        report(panel["description"], f"the description of panel {panel['title']!r}")
        report(targets and all(target["expr"].strip() for target in targets), f"the queries of panel {panel['title']!r}")
        report(len({target["refId"] for target in targets}) == len(targets), f"the letters of the queries of panel {panel['title']!r}")
        unknown = set(re.findall(r"\$(\w+)", " ".join(target["expr"] for target in targets))) - {*VARIABLES, "__rate_interval"}
        report(not unknown, f"the variables of panel {panel['title']!r}", unknown)


def check_names(report, where, expression, known):
    """Whether an expression names only metrics and labels that there are. `known` has the labels of each metric."""
    labels = set(ADDED)
    for name, chosen in selectors(expression):
        metric = name if RECORDED in name or name in known else family(name)
        if name == "up" or not report(metric in known, f"{where} names only metrics that there are", name):
            continue
        labels |= known[metric]
        report(chosen <= known[metric] | ADDED, f"{where} chooses {name} by labels that it has", chosen - known[metric] - ADDED)
    report(groupings(expression) <= labels, f"{where} groups by labels that there are", groupings(expression) - labels)


def check_shown(report, scraped, expressions):
    """Whether each metric is in a panel or a rule."""
    shown = {metric for expression in expressions for name in names(expression) for metric in (name, family(name))}
    missing = set(scraped) - shown - UNSHOWN
    report(not missing, "each metric is in a panel or a rule", missing)


def check_pages(report, scraped, rules):
    """Whether the pages name only what there is, and all of it where they must."""
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    alerts = {rule["name"] for rule in rules if rule["type"] == "alerting"}
    for page in PAGES:
        text = (ROOT / page).read_text()
        named = {name for name in re.findall(rf"\b((?:{PREFIXES})_[a-z0-9_]+)\b", text) if not name.startswith("ziggurat_layers")}
        named |= {match for match in re.findall(r"\b(?:route|route_tool_era|upstream|ziggurat):ziggurat_[a-z0-9_:]+", text)}
        lacking = {name for name in named if family(name) not in scraped and name not in scraped and name not in recorded and not any(name in r for r in recorded)}
        report(not lacking, f"{page} names only metrics that there are", lacking)
        invented = set(re.findall(r"\bZiggurat[A-Z]\w+", text)) - alerts
        report(not invented, f"{page} names only alerts that there are", invented)
    table = set(re.findall(r"(?m)^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text()))
    report(table == set(scraped), "docs/metrics.md has every metric of the binary and no other", table ^ set(scraped))
    entries = re.findall(r"(?m)^## (Ziggurat\w+)$", (ROOT / "docs/runbook.md").read_text())
    report(sorted(entries) == sorted(alerts), "docs/runbook.md has an entry for each alert", set(entries) ^ alerts)
    for rule in rules:
        if rule["type"] == "alerting":
            report(rule["annotations"].get("runbook") == f"docs/runbook.md#{rule['name'].lower()}", f"{rule['name']} points to its entry")
            report(rule["labels"].get("severity") in ("page", "ticket"), f"the severity of {rule['name']}")
    tested = set(re.findall(r"alertname: (\w+)", (GRAFANA / "rules_test.yml").read_text()))
    report(tested == alerts, "grafana/rules_test.yml tests each alert", tested ^ alerts)
