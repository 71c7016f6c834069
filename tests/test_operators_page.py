"""docs/serving.md: its messages are those of the code, all of them; its flags, metrics and links exist."""

import argparse
import ast
import re
from pathlib import Path

import pytest

from serving.batch import command as batch
from serving.client import command as client
from serving.export import command as export
from serving.server import command as server
from serving.server.metrics import ServerMetrics
from serving.versions import command as version_commands

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
SERVING = sorted((ROOT / "serving").rglob("*.py"))
SOURCES = [*SERVING, *sorted((ROOT / "preprocessing").glob("*.py"))]
ERRORS = {"UserError", "PredictError", "StatusError", "_Refused", "ValueError", "invalid", "not_found", "failed_precondition", "_assert"}
HOLE = "\0"  # where a message has a value


def messages_of_the_page() -> list[str]:
    """What stands in the first column of the tables of messages."""
    tables = PAGE[PAGE.index("## Messages") :]
    cells = re.findall(r"^\| (`.*?) \| .* \|$", tables, flags=re.MULTILINE)
    return [part.strip() if mark == "``" else part for cell in cells for mark, part in re.findall(r"(?<!`)(``?)(?!`)(.*?)\1(?!`)", cell)]


def text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return None


def texts(path: Path) -> set[str]:
    """All texts of a file, f-strings with holes; `%s` of the log is a hole too."""
    found = (text_of(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return {re.sub(r"%\w", HOLE, text) for text in found if text}


def errors(path: Path) -> set[str]:
    """The texts of the errors that a file raises, without those that only pass on what another said."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ERRORS]
    arguments = [part for call in named for argument in call.args for part in getattr(argument, "elts", [argument])[:1]]
    found = {text_of(argument) for argument in arguments} - {None}
    return {text for text in found if len(re.findall(r"\w{3,}", text)) >= 2}


def pattern(message: str) -> re.Pattern:
    return re.compile(".*".join(map(re.escape, message.split("..."))), re.DOTALL)


@pytest.mark.parametrize("message", messages_of_the_page())
def test_each_message_of_the_page_is_one_of_the_code(message):
    sought = pattern(message)
    assert any(sought.search(text) for path in SOURCES for text in texts(path))


@pytest.mark.parametrize("path", SERVING, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_error_of_the_code_is_on_the_page(path):
    known = [pattern(message) for message in messages_of_the_page()]
    assert [text for text in errors(path) if not any(one.search(text) for one in known)] == []


def flags(parser: argparse.ArgumentParser) -> set[str]:
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {flag for one in action.choices.values() for flag in flags(one)}
    return found


def parser_of(parse, monkeypatch) -> argparse.ArgumentParser:
    """The parser that a command makes and uses at once."""
    class Caught(Exception):
        pass

    def catch(parser, *_):
        raise Caught(parser)

    with monkeypatch.context() as patch, pytest.raises(Caught) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_args", catch)
        parse([])
    return caught.value.args[0]


def test_flags_of_the_page_are_flags_of_a_command(monkeypatch):
    ours = {flag for parser in (client._parser(), batch._parser(), version_commands._parser(), parser_of(server._parse, monkeypatch),
                                parser_of(export._parse, monkeypatch)) for flag in flags(parser)}  # fmt: skip
    before, _, after = PAGE.partition("## TensorFlow Serving\n")
    first_cells = re.findall(r"^\| (`--.*?) \|", before, flags=re.MULTILINE)
    named = set(re.findall(r"`(--\w+)", " ".join(first_cells))) | set(re.findall(r"`(--\w+)`", after[after.index("## Who may connect") :]))
    assert named and named <= ours


def test_metrics_of_the_page_are_the_servers():
    own = set(re.findall(r"^# TYPE (\S+)", ServerMetrics().text(), flags=re.MULTILINE))
    own |= set(re.findall(r'"(dgenctr_serving_\w+)"', (ROOT / "serving" / "server" / "served_models.py").read_text()))
    named = set(re.findall(r"`(:tensorflow:serving:[\w:]+|dgenctr_\w+|process_\w+)`", PAGE))
    assert named and named <= own


def test_links_within_the_page_lead_somewhere():
    titles = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", PAGE, flags=re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= titles
