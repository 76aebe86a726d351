"""What is asked of Prometheus, and what its expressions name."""

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request

PREFIXES = "ziggurat|mcp_server|mcp_client|http_server|http_client|process|tokio"
NAME = re.compile(rf"(?<![\w:])((?:{PREFIXES})_[a-z0-9_]+|(?:route|route_tool_era|upstream|ziggurat):[a-z0-9_:]+)")
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
MATCHERS = re.compile(r"\{[^}]*\}")
GROUPING = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)")
RECORDED = ":"


class Prometheus:
    def __init__(self, address):
        self.address = address

    def get(self, path, **arguments):
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def is_up(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=10):
                return True
        except OSError:
            return False

    def series(self, expression):
        """The labels and values of what an expression gives; a value that is no number is none."""
        result = self.get("/api/v1/query", query=expression)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in result if math.isfinite(float(sample["value"][1]))]

    def rules(self):
        return [rule for group in self.get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def firing(self):
        return {alert["labels"]["alertname"] for alert in self.get("/api/v1/alerts")["alerts"] if alert["state"] == "firing"}


def names(expression):
    """The metrics that an expression names."""
    bare = GROUPING.sub("", MATCHERS.sub("", TEXT.sub('""', expression)))
    return set(NAME.findall(bare))


def selectors(expression):
    """Each metric of an expression with the labels that it is chosen by."""
    bare = TEXT.sub('""', expression)
    for match in NAME.finditer(GROUPING.sub("", bare)):
        rest = GROUPING.sub("", bare)[match.end():]
        chosen = MATCHERS.match(rest)
        yield match[1], set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", chosen[0])) if chosen else set()


def groupings(expression):
    """The labels that an expression groups or joins by."""
    return {label.strip() for labels in GROUPING.findall(TEXT.sub('""', expression)) for label in labels.split(",") if label.strip()}


def family(name):
    """A histogram's name, from that of one of its series."""
    return re.sub(r"_(bucket|count|sum)$", "", name)


def scraped(text):
    """The metrics of a scrape, and the labels of each."""
    labels = {line.split()[2]: set() for line in text.splitlines() if line.startswith("# TYPE ")}
    for line in text.splitlines():
        if match := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            labels[family(match[1]) if family(match[1]) in labels else match[1]] |= set(re.findall(r'(\w+)="', match[2] or ""))
    return labels
