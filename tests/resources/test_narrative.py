"""What a narrative may hold. http://hl7.org/fhir/R4/narrative.html#xhtml (txt-1, txt-2)"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.narrative import problem

_X = '<div xmlns="http://www.w3.org/1999/xhtml">'


@pytest.mark.parametrize(
    "inside",
    [
        "text",
        "<p>Scanner <b>cérébral</b></p>",
        '<table border="1"><tbody><tr><td colspan="2" style="color: red">a</td></tr></tbody></table>',
        '<a href="https://example.org/a" title="b">c</a><a name="d">e</a>',
        '<img src="data:image/png;base64,QQ==" alt="a"/>',
        '<img src="#p1"/>',
        '<a href="Patient/1">a</a>',
        '<a href="urn:uuid:c757873d-ec9a-4326-a141-556f43239520">a</a>',
        "<!-- comment --><p>a</p>",
        "&lt;script&gt; &#233;",
        "<![CDATA[a]]>",
        '<p xml:lang="fr" lang="fr">a</p>',
    ],
)
def test_formatted_text_is_allowed(inside: str) -> None:
    assert problem(f"{_X}{inside}</div>") is None


def test_the_namespace_may_be_left_out() -> None:
    """Looser than R4, on purpose: google/fhir lists it as valid, and many senders do so."""
    assert problem("<div>text</div>") is None


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        "<SCRIPT>a</SCRIPT>",
        '<p onclick="a()">a</p>',
        '<img src="x" onerror="a()"/>',
        '<a href="javascript:a()">a</a>',
        '<a href=" java\tscript:a()">a</a>',
        '<a href="JaVaScRiPt:a()">a</a>',
        '<a href="&#106;avascript:a()">a</a>',
        '<a href="vbscript:a">a</a>',
        '<img src="data:text/html;base64,QQ=="/>',
        '<img src="data:image/svg+xml;base64,QQ=="/>',
        '<p style="width: expression(a())">a</p>',
        '<p style="background: url(javascript:a())">a</p>',
        '<p style="a: \\65xpression(a())">a</p>',
        '<iframe src="a"/>', '<object data="a"/>', '<embed src="a"/>', '<form action="a"/>', "<input/>", "<base/>",
        '<link rel="stylesheet" href="a"/>', "<style>a</style>", "<head/>", "<body/>", '<meta http-equiv="a"/>',
        '<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "<math/>", "<video/>", "<button>a</button>",
        '<p xmlns:xlink="http://www.w3.org/1999/xlink" xlink:href="a">a</p>',
        "<?xml-stylesheet href='a'?>a",
        "&nbsp;", "&copy;", "&undefined;",
        "<p>a", "a</p>", "<p>a</div></p>", "a & b", "a < b", '<p id="a" id="b">a</p>', "",  " \n\t ", "<p> </p>",
    ],
)  # fmt: skip
def test_what_could_run_load_or_confuse_is_refused(inside: str) -> None:
    """narrative.html: SHALL NOT contain scripts, forms, frames, objects, external stylesheets; entities only XML's."""
    rule = problem(f"{_X}{inside}</div>")
    assert rule is not None
    assert "alert" not in rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text",
        "<p>text</p>",
        f"{_X}a</div>{_X}b</div>",
        '<div xmlns="http://example.org">a</div>',
        "<div>\x01</div>",
    ],
)
def test_a_narrative_is_one_div(text: str) -> None:
    assert problem(text) is not None


def test_no_entity_is_ever_expanded() -> None:
    """The billion laughs, and a file of the server's."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    for declaration in (f'<!ENTITY l0 "ha">{laughs}', '<!ENTITY l9 SYSTEM "file:///etc/passwd">'):
        rule = problem(f"<!DOCTYPE div [{declaration}]>{_X}&l9;</div>")
        assert rule == "The narrative has a DOCTYPE (txt-1)"


@given(st.text(alphabet="<>/divpab&;\"'= !-[]?", max_size=60))
def test_no_text_breaks_the_check(text: str) -> None:
    problem(text)
    problem(f"{_X}{text}</div>")
