"""The house as a whole: nothing dead, every public name explained, one place for what is one thing (DESIGN §3)."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LONG

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("resources", "store", "auth", "audit", "dicomweb", "subscriptions", "workflow", "fhir_server")
FILES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "migrations" not in path.parts
)
CALLED_BY_OTHERS = frozenset({
    # Methods that a library calls on a class of ours, by the name that it gives them.
    "resolve_client_public_key", "process_assertion_claims", "get_audiences", "check_endpoint_auth_method",
    "check_grant_type", "check_permission", "create_introspection_payload", "create_oauth2_request", "handle_response",
    "send_signal", "validate_requested_scope", "check_client", "is_available", "readinto", "do_POST", "log_message",
    "ensure_sync", "Meta", "collect",
})  # fmt: skip
FOR_WHAT_COMES = frozenset({
    # Read by an auditor's or operator's command that is not there yet; tests use them on what is written today.
    "verify_inclusion", "attempts_of", "on_requests",
})  # fmt: skip


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _public(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public functions, methods and classes with their qualified names; what is private hides what it holds."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{inside}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{inside}{node.name}.")


def _decorated(node: ast.AST) -> bool:
    """Commands, fixtures and handlers are reached through their decorator."""
    return bool(getattr(node, "decorator_list", ())) and not all(
        isinstance(one, ast.Name) and one.id in ("property", "cached_property", "staticmethod", "classmethod")
        for one in node.decorator_list  # type: ignore[attr-defined]
    )


def test_every_public_function_has_a_user() -> None:
    """What nobody calls but its test is no capability: there is no way in for whoever needs it."""
    words: Counter[str] = Counter()
    found: list[tuple[str, str]] = []
    words.update(re.findall(r"\w+", (ROOT / "wsgi.py").read_text(encoding="utf-8")))
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        words.update(re.findall(r"\w+", text))
        found += [
            (_name(path), name)
            for name, node in _public(ast.parse(text).body)
            if not _decorated(node) and not isinstance(node, ast.ClassDef)
        ]
    dead = sorted(
        f"{file}: {name}"
        for file, name in found
        if words[name.rpartition(".")[2]] == 1 and name.rpartition(".")[2] not in CALLED_BY_OTHERS | FOR_WHAT_COMES
    )
    assert not dead


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    """The first line of a file is its place in the house."""
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("pattern", [
    r"^Json = ", r"isoformat\(timespec=\"milliseconds", r"timedelta\(microseconds=1\)", r"datetime\.now\(UTC\)",
], ids=["Json", "instant text", "microseconds", "wall clock"])  # fmt: skip
def test_one_module_each_for_json_and_times(pattern: str) -> None:
    """`resources.json` and `resources.times`: one definition of each (house rule, DESIGN §3).

    A form of the log is frozen, and projected by a verifier that has nothing but those two files.
    """
    elsewhere = [
        _name(path)
        for path in FILES
        if _name(path) not in ("audit/form2.py", "audit/patterns.py")
        and path.name not in ("times.py", "json.py")
        and re.search(pattern, path.read_text(encoding="utf-8"), re.M)
    ]
    assert not elsewhere


def _classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _is_protocol(node: ast.ClassDef) -> bool:
    return any("Protocol" in ast.unparse(base) for base in node.bases)


def test_every_public_name_is_explained() -> None:
    """House rule: shapes, units, errors, clause. A method of a port, or of a library's class, is explained there."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    ours = {node.name for tree in trees.values() for node in _classes(tree)}
    of_ports = {
        item.name for tree in trees.values() for node in _classes(tree) if _is_protocol(node) for item in node.body
        if isinstance(item, ast.FunctionDef)
    }  # fmt: skip
    silent = []
    for path, tree in trees.items():
        foreign = {
            f"{node.name}." for node in _classes(tree)
            if any(ast.unparse(base).split("[")[0].rpartition(".")[2] not in ours for base in node.bases)
        }  # fmt: skip
        silent += [
            f"{_name(path)}: {name}"
            for name, node in _public(tree.body)
            if not ast.get_docstring(node)  # type: ignore[arg-type]
            and name.rpartition(".")[2] not in of_ports | CALLED_BY_OTHERS
            and f"{name.rpartition('.')[0]}." not in foreign
        ]
    assert not silent


def test_what_the_quick_run_leaves_out_is_there() -> None:
    """A file that was renamed would come back into the quick run, and make it slow."""
    assert [name for name in LONG if not (ROOT / "tests" / name).is_file()] == []
