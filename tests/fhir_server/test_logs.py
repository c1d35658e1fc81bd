"""The log at the pipe: every event arrives as one readable line, and nothing of anybody's data does (DESIGN §11)."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fhir_server.server import logs

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("resources", "store", "auth", "audit", "dicomweb", "subscriptions", "workflow", "fhir_server")
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
CANARY = "KANARIENVOGEL"

SAMPLES: dict[str, Any] = {
    "timestamp": "2026-06-01T08:00:00Z", "logger": "vigie.x", "process": "web", "request_id": "a-1", "method": "GET",
    "route": "fhir/read", "child": "worker", "loop": "audit-sequencer", "exception": "ValueError < OSError",
    "trace": ["store/objects.py:12 put"], "at": "store/objects.py:12 put", "reason": "no answer", "result": "MISMATCH",
    "kind": "regulate", "task": "a-1", "order": "ServiceRequest/a-1", "appointment": "Appointment/a-1",
    "subscription": "a-1", "audit_event": "a-1",
    "check": "disk", "queue": "audit-inbox", "event": "x", "level": "info",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One logging call of the source."""

    place: str
    level: str
    node: ast.Call

    @property
    def event(self) -> str:
        first = self.node.args[0] if self.node.args else None
        return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))
    yield ROOT / "wsgi.py", ast.parse((ROOT / "wsgi.py").read_text(encoding="utf-8"))


def calls() -> list[Call]:
    """Every call of a method of a logger in the project's packages."""
    found = []
    for path, tree in sources():
        names = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and "get_logger" in ast.unparse(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                receiver = ast.unparse(node.func.value)
                if receiver in names or "get_logger" in receiver.lower() or "getlogger" in receiver.lower():
                    found.append(Call(f"{path.relative_to(ROOT)}:{node.lineno}", node.func.attr, node))
    return found


CALLS = calls()


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.place)
def test_an_event_is_a_literal_and_its_fields_are_listed(call: Call) -> None:
    """No call can put data into the sentence, nor bring a field that nobody has described."""
    assert len(call.node.args) == 1, "the event, and nothing to be put into it"
    assert call.event, "a literal"
    assert re.fullmatch(logs.FIELDS["event"][0], call.event)
    given = {keyword.arg for keyword in call.node.keywords}
    assert given <= logs.FIELDS.keys() | {"exc_info"}


def test_there_is_one_way_to_log() -> None:
    """Neither `logging`, `warnings` nor `print` beside it: their words would be withheld, and nobody see them."""
    assert len(CALLS) > 15
    allowed = {"fhir_server/server/logs.py", "auth/server.py"}
    for path, tree in sources():
        name = str(path.relative_to(ROOT))
        for node in ast.walk(tree):
            text = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert text != "logging.getLogger" or name in allowed, f"{name}:{node.lineno}"  # type: ignore[attr-defined]
            assert text not in {"warnings.warn", "traceback.print_exc"}, name
            if text == "structlog.get_logger" and name not in allowed:
                named = ast.unparse(node)
                assert re.fullmatch(r"structlog\.get_logger\('vigie\.[a-z]+'\)", named), f"{name}: {named}"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """What arrived on standard error: nothing but JSON objects, one a line."""
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(isinstance(one, dict) for one in found)
    return found


def test_every_event_of_the_source_arrives_with_its_fields() -> None:
    """A generated test at the pipe: all calls, with a value of each field's form."""
    wanted = []
    for call in CALLS:
        names = sorted(keyword.arg for keyword in call.node.keywords if keyword.arg and keyword.arg != "exc_info")
        level = "error" if call.level == "exception" else call.level
        wanted.append((level, call.event, {name: SAMPLES.get(name, 7) for name in names}))
    script = (
        "import json, sys, structlog\nfrom fhir_server.server import logs\nlogs.configure('worker')\n"
        "for level, event, fields in json.loads(sys.argv[1]):\n"
        "    getattr(structlog.get_logger('vigie.x'), level)(event, **fields)\n"
    )
    told = lines(run(script, json.dumps(wanted)))
    assert len(told) == len(wanted)
    for (level, event, fields), line in zip(wanted, told, strict=True):
        assert (line["level"], line["event"], line["process"]) == (level, event, "worker")
        assert {name: line[name] for name in fields} == fields


def test_each_field_is_described_for_operators() -> None:
    """The table in docs/operations.md is this one."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for name, (_, what) in logs.FIELDS.items():
        assert f"| `{name}` | {what} |" in text, name


SPEAKING = f"""
import logging, sys, threading, traceback, warnings, multiprocessing
import structlog
from fhir_server.server import logs
logs.configure("worker")
log = structlog.get_logger("vigie.x")

class Own(Exception): pass

def fail():
    try:
        raise OSError("{CANARY}")
    except OSError as error:
        raise Own("{CANARY}") from error

def caught():
    try:
        fail()
    except Own:
        log.exception("a loop failed", loop="sweep", name="{CANARY}", task="{CANARY} {CANARY}")

def child():
    fail()

logging.getLogger("some.library").error("quoting %s", "{CANARY}")
logging.getLogger("other.library").warning("{CANARY}")
try:
    fail()
except Own:
    logging.getLogger("third.library").exception("{CANARY}")
warnings.warn("{CANARY}")
caught()
thread = threading.Thread(target=fail); thread.start(); thread.join()
process = multiprocessing.get_context("fork").Process(target=child); process.start(); process.join()
print("{CANARY}", file=sys.stderr)
print("{CANARY}")
class Late:
    def __del__(self): raise Own("{CANARY}")
Late()
fail()
"""


def test_whatever_speaks_in_a_process_comes_as_json_without_its_words() -> None:
    """Libraries, warnings, exceptions caught or not, threads, forked processes and prints (house.md A5)."""
    done = run(SPEAKING)
    assert CANARY not in done.stderr + done.stdout
    assert done.stdout == ""
    assert str(ROOT) not in done.stderr, "no path of the machine"
    told = lines(done)
    libraries = {line["logger"]: line for line in told if line["event"] == "a library spoke"}
    assert set(libraries) == {"some.library", "other.library", "third.library"}
    assert [libraries[name]["level"] for name in ("some.library", "other.library")] == ["error", "warning"]
    assert libraries["third.library"]["exception"] == "Own < OSError"
    events = {line["event"]: line for line in told}
    assert events["a library warned"]["exception"] == "UserWarning"
    failed = events["a loop failed"]
    assert (failed["level"], failed["loop"], failed["exception"]) == ("error", "sweep", "Own < OSError")
    assert failed["trace"][-1].endswith(" fail")
    assert failed["task"] == logs.WITHHELD
    assert "name" not in failed
    assert events["a thread ended by an exception"]["exception"] == "Own < OSError"
    assert events["an exception could not be raised"]["exception"] == "Own"
    assert events["an exception was not caught"]["level"] == "critical"
    forked = [line for line in told if line["event"] == "something else was written to standard error"]
    assert "Own < OSError" in [line.get("exception") for line in forked], "what multiprocessing prints of a child"
    assert any("exception" not in line for line in forked), "and what is merely printed"


def test_a_line_is_never_longer_than_a_pipe_takes_at_once() -> None:
    """pipe(7): longer writes of several processes may be mixed, and then neither line can be read."""
    script = (
        "import structlog\nfrom fhir_server.server import logs\nlogs.configure('worker')\n"
        "file, function = 'f' * 100 + '.py', 'g' * 60\n"
        "places = [f'{file}:{number} {function}' for number in range(60)]\n"
        "structlog.get_logger('vigie.x').error('a loop failed', trace=places)\n"
    )
    done = run(script)
    (line,) = done.stderr.encode().splitlines(keepends=True)
    assert len(line) <= logs.LINE_BYTES
    assert len(json.loads(line)["trace"]) > 10
    assert ".py:59 " in json.loads(line)["trace"][-1], "the innermost is what is kept"


MANY = """
import sys
from fhir_server.server import logs
logs.configure("web")
for turn in range(50):
    for number in range(200):
        logs.request("GET", "fhir/read", 200, 1.0, f"request-{sys.argv[1]}-{turn}-{number}")
    logs.flush()
"""


def test_the_lines_of_processes_that_share_a_pipe_stay_whole() -> None:
    """Four processes, ten thousand lines each."""
    reader, writer = os.pipe()
    processes = [
        subprocess.Popen([sys.executable, "-c", MANY, str(number)], stderr=writer, cwd=ROOT) for number in range(4)
    ]
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = {json.loads(line)["request_id"] for line in pipe}
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(told) == 4 * 50 * 200


def test_on_a_terminal_the_lines_are_for_people_and_few() -> None:
    """Warnings in plain words; neither JSON nor a line per request."""
    script = (
        "import structlog\nfrom fhir_server.server import logs\nlogs.configure('worker')\n"
        "log = structlog.get_logger('vigie.x')\nlog.info('a process is started', child='web')\n"
        "logs.request('GET', 'fhir/read', 200, 1.0, 'x')\n"
        "log.warning('a task is past its deadline', task='t-1', kind='read')\n"
    )
    mine, terminal = pty.openpty()
    done = subprocess.run([sys.executable, "-c", script], stderr=terminal, timeout=60, check=True, cwd=ROOT)
    os.close(terminal)
    text = os.read(mine, 65536).decode()
    os.close(mine)
    assert done.returncode == 0
    (line,) = text.splitlines()
    shown = r"\d\d:\d\d:\d\d warning  worker: a task is past its deadline  task=t-1 kind=read"
    assert re.fullmatch(shown, line.strip())


FORKED = """
import multiprocessing, sys
from fhir_server.server import logs

def worker():
    logs.configure("web")
    for number in range(40):
        logs.request("GET", "fhir", 200, 1.0, f"request-{number}")

logs.configure("web")
logs.request("GET", "fhir", 200, 1.0, "request-of-the-parent")
process = multiprocessing.get_context("fork").Process(target=worker)
process.start()
process.join()
sys.exit(process.exitcode)
"""


def test_a_worker_that_ends_has_written_all_its_request_lines() -> None:
    """A web worker is forked by the server, and leaves without what `atexit` was told in its parent."""
    done = run(FORKED)
    assert done.returncode == 0
    told = [one["request_id"] for one in lines(done)]
    assert sorted(told) == sorted([f"request-{number}" for number in range(40)] + ["request-of-the-parent"])


# — the forms —


@pytest.mark.parametrize("name", sorted(logs.FIELDS))
def test_what_is_not_of_its_field_s_form_is_withheld(name: str) -> None:
    """Whole, from the first character to the last: a value that begins as it should may go on as it likes."""
    sample = SAMPLES.get(name, 7)
    assert logs._in_form(name, sample) == sample
    if name == "trace":
        assert logs._in_form(name, [*sample, f"{CANARY} é", 7, f"store/objects.py:12 put {CANARY}"]) == sample
        return
    for spoiled in (f"{sample}\n{CANARY}", f"{CANARY} <é>", f"{sample} é {CANARY}"):
        assert logs._in_form(name, spoiled) == logs.WITHHELD


def test_an_exception_is_its_classes_in_their_order_and_each_once() -> None:
    """PEP 3134: what it comes from, or came in the midst of, unless that was put out of sight (PEP 409)."""

    class Named(Exception):
        pass

    Named.__name__ = f"{CANARY} é"
    with pytest.raises(OSError) as context:  # noqa: PT012 - the context is made here
        try:
            raise ValueError(CANARY)
        except ValueError:
            raise OSError(CANARY)  # noqa: B904 - so that it has a context and no cause
    assert logs.scrubbed(context.value)["exception"] == "OSError < ValueError"
    with pytest.raises(OSError) as alone:  # noqa: PT012 - the context is made here
        try:
            raise ValueError(CANARY)
        except ValueError:
            raise OSError(CANARY) from None
    assert logs.scrubbed(alone.value)["exception"] == "OSError"
    first, second = KeyError(CANARY), ValueError(CANARY)
    first.__cause__, second.__cause__ = second, first
    assert logs.scrubbed(first)["exception"] == "KeyError < ValueError"
    assert re.fullmatch(logs.FIELDS["exception"][0], logs.scrubbed(Named())["exception"])


def test_a_place_tells_nothing_of_the_machine() -> None:
    """Ours and the libraries' by their path in the package; whatever lies elsewhere by its name alone."""
    assert logs.place(str(ROOT / "store" / "objects.py"), 12, "put") == "store/objects.py:12 put"
    assert logs.place(f"/home/{CANARY}/notes é.py", 3, "f g") == "notes__.py:3 f_g"


def test_a_library_that_repeats_itself_is_told_once_with_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library in a loop would else fill the disk; who makes up messages fills no memory."""
    clock = [100.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: clock[0])
    repeats = logs._Repeats()
    assert [repeats.count("a") for _ in range(5)] == [1, 0, 0, 0, 0]
    assert repeats.count("b") == 1
    clock[0] += logs._REPEATED_S
    assert repeats.count("a") == 5
    for number in range(5000):
        assert repeats.count(number) == 1
    assert len(repeats._last) <= 1001


@pytest.mark.parametrize("how", ["closed", "broken"])
def test_a_log_that_cannot_be_written_stops_nobody(how: str) -> None:
    """Standard error closed, or its reader gone: the process goes on with its work."""
    broken = "reader, writer = os.pipe(); os.dup2(writer, 2); os.close(writer); os.close(reader)"
    script = (
        "import os, structlog\nfrom fhir_server.server import logs\nlogs.configure('worker')\n"
        f"{'os.close(2)' if how == 'closed' else broken}\n"
        "structlog.get_logger('vigie.x').warning('a loop failed')\nlogs.request('GET', 'fhir', 200, 1.0, 'x')\n"
        "logs.flush()\nos.write(1, b'done')\n"
    )
    done = run(script)
    assert (done.returncode, done.stdout) == (0, "done")
