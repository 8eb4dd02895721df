"""What a PromQL expression asks for, found without a parser of the whole language."""

import re

_STRINGS = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`')
_MATCHERS = re.compile(r"\{[^{}]*\}")
_RANGES = re.compile(r"\[[^\[\]]*\]")
_LABEL_LISTS = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)", re.I)
_NUMBERS = re.compile(r"(?<![\w:])(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|\d+(?:ms|[smhdwy]))+(?![\w:])", re.I)
_NAMES = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right", "inf", "nan", "start", "end"}


def metric_names(expression: str) -> set[str]:
    """Names of the series in an expression."""
    text = _STRINGS.sub('""', expression)
    text = _MATCHERS.sub(" ", text)
    text = _RANGES.sub(" ", text)
    text = _LABEL_LISTS.sub(" ", text)
    text = _NUMBERS.sub(" ", text)
    names = set()
    for found in _NAMES.finditer(text):
        word = found.group()
        if word.lower() in _WORDS or text[found.end():].lstrip().startswith("("):
            continue
        names.add(word)
    return names


def label_names(expression: str) -> set[str]:
    """Labels that an expression matches on or groups by."""
    text = _STRINGS.sub('""', expression)
    names = set()
    for matchers in _MATCHERS.findall(text):
        names.update(re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", matchers))
    for found in _LABEL_LISTS.finditer(text):
        names.update(_NAMES.findall(found.group().split("(", 1)[1]))
    return names


def family(series: str, families: set[str]) -> str | None:
    """The documented metric that a series belongs to: histograms have three series each."""
    if series in families:
        return series
    for suffix in ("_bucket", "_sum", "_count"):
        if series.endswith(suffix) and series.removesuffix(suffix) in families:
            return series.removesuffix(suffix)
    return None
