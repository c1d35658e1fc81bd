"""The report as a PDF: a pure function of stored text, the same bytes for the same input (reportlab's invariant mode).

Everything printed comes from stored resources; every text is escaped before it meets reportlab's markup. An INS is
printed only for a qualified identity. What the page says is `workflow.report_text`'s.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from html import unescape
from io import BytesIO
from pathlib import Path
from re import compile as pattern
from typing import Any
from xml.sax.saxutils import escape

import reportlab
from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

_FONTS = Path(reportlab.__file__).parent / "fonts"
_REGULAR, _BOLD = "Vera", "VeraBd"

_BLOCK = pattern(r"(?i)</(p|div|li|h[1-6]|tr|ul|ol|table)>|<br\s*/?>")
_TAG = pattern(r"<[^>]*>")
_BLANKS = pattern(r"[ \t\r\f\v]+")


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report's text."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Layout:
    """What the page says, already in words; `report_text.layout` makes it from resources."""

    title: str
    hospital: str
    platform: str
    patient: tuple[str, ...]
    banner: str | None
    """A warning about the identity or the status of the report, on top."""
    exam: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    signature: tuple[str, ...]
    footer: str
    language: str = "fr-FR"
    """BCP 47 tag of the document."""
    page: str = "Page"
    watermark: str | None = None
    """Across each page: the report is no longer in force."""
    header: str | None = None
    """On top of each page, beside the watermark: why."""


def render(layout: Layout) -> bytes:
    """The PDF of a report, byte for byte the same for the same `layout`."""
    font = load_fonts()
    target = BytesIO()
    document = SimpleDocTemplate(
        target,
        pagesize=A4,
        leftMargin=20 * mm,
        rightMargin=20 * mm,
        topMargin=18 * mm,
        bottomMargin=20 * mm,
        title=layout.title,
        author=layout.platform,
        lang=layout.language,
        invariant=1,
    )

    def footer(canvas: object, page: SimpleDocTemplate) -> None:
        canvas.saveState()  # type: ignore[attr-defined]
        canvas.setFont(_REGULAR, 7)  # type: ignore[attr-defined]
        canvas.setFillColor(colors.grey)  # type: ignore[attr-defined]
        canvas.drawString(20 * mm, 10 * mm, font.printable(layout.footer))  # type: ignore[attr-defined]
        canvas.drawRightString(190 * mm, 10 * mm, f"{layout.page} {page.page}")  # type: ignore[attr-defined]
        if layout.watermark:
            _void(canvas, font.printable(layout.watermark), font.printable(layout.header or ""))
        canvas.restoreState()  # type: ignore[attr-defined]

    document.build(_story(layout, font), onFirstPage=footer, onLaterPages=footer)
    return target.getvalue()


def _void(canvas: Any, watermark: str, header: str) -> None:
    """Mark a page as void: the word across it, and why on top."""
    width, height = A4
    canvas.setFillColor(colors.firebrick)
    canvas.setFont(_BOLD, 8)
    canvas.drawCentredString(width / 2, height - 10 * mm, _cut(f"{watermark} · {header}"))
    canvas.setFillAlpha(0.18)
    canvas.translate(width / 2, height / 2)
    canvas.rotate(52)
    size = 64.0
    canvas.setFont(_BOLD, size * min(1.0, 250 * mm / canvas.stringWidth(watermark, _BOLD, size)))
    canvas.drawCentredString(0, 0, watermark)


def _cut(text: str) -> str:
    return text if len(text) <= _HEADER_MAX else f"{text[:_HEADER_MAX - 1]}…"


_HEADER_MAX = 96
"""Characters on top of a void page; the banner of the first says the reason whole."""


def plain_text(xhtml: str) -> str:
    """The text of a narrative: a line per block, no tags, entities resolved once."""
    text = unescape(_TAG.sub("", _BLOCK.sub("\n", xhtml.replace("\n", " "))))
    lines = (_BLANKS.sub(" ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


class _Face:
    """Which characters the embedded font has; others are written by their base letter, never dropped."""

    def __init__(self, covered: frozenset[int]) -> None:
        self._covered = covered

    def printable(self, text: str) -> str:
        return "".join(self._shown(character) for character in unicodedata.normalize("NFC", text))

    def markup(self, text: str) -> str:
        """Escaped for reportlab's paragraph markup; line breaks kept."""
        return escape(self.printable(text)).replace("\n", "<br/>")

    def _shown(self, character: str) -> str:
        if character == "\n" or ord(character) in self._covered:
            return character
        if unicodedata.category(character).startswith("C"):
            return ""
        base = "".join(one for one in unicodedata.normalize("NFKD", character) if ord(one) in self._covered)
        return base or "?"


@cache
def load_fonts() -> _Face:
    """The fonts, read once per process: call it before threads do, since reportlab's register is global.

    Bitstream Vera comes with reportlab and covers more than Latin-1.
    """
    regular = TTFont(_REGULAR, str(_FONTS / "Vera.ttf"))
    bold = TTFont(_BOLD, str(_FONTS / "VeraBd.ttf"))
    pdfmetrics.registerFont(regular)
    pdfmetrics.registerFont(bold)
    return _Face(frozenset(regular.face.charToGlyph) & frozenset(bold.face.charToGlyph))


def _story(layout: Layout, font: _Face) -> list[Flowable]:
    body = ParagraphStyle("body", fontName=_REGULAR, fontSize=9.5, leading=13.5, splitLongWords=1)
    strong = ParagraphStyle("strong", parent=body, fontName=_BOLD)
    title = ParagraphStyle("title", parent=strong, fontSize=14, leading=20, spaceBefore=8, spaceAfter=6)
    heading = ParagraphStyle("heading", parent=strong, fontSize=10.5, spaceBefore=9, spaceAfter=2)
    right = ParagraphStyle("right", parent=body, alignment=TA_RIGHT)
    banner = ParagraphStyle("banner", parent=strong, textColor=colors.white, backColor=colors.firebrick,
    borderPadding=4)

    def paragraphs(lines: Iterable[str], style: ParagraphStyle = body) -> list[Flowable]:
        return [Paragraph(font.markup(line), style) for line in lines]

    head = Table(
        [[paragraphs([layout.hospital], strong) + paragraphs([layout.platform]), paragraphs(layout.patient)]],
        colWidths=[71 * mm, 94 * mm],
        hAlign="LEFT",
    )
    head.setStyle(
        TableStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("BOX", (1, 0), (1, 0), 0.6, colors.grey),
                    ("LEFTPADDING", (0, 0), (0, 0), 0)])
    )
    story: list[Flowable] = [head, Spacer(1, 4 * mm)]
    if layout.banner:
        story += [*paragraphs([layout.banner], banner), Spacer(1, 3 * mm)]
    story += paragraphs([layout.title], title)
    story += [
        Paragraph(f'<font name="{_BOLD}">{font.markup(name)} :</font> {font.markup(value)}', body)
        for name, value in layout.exam
    ]
    for section in layout.sections:
        story += [*paragraphs([section.title], heading), *paragraphs(section.text.split("\n"))]
    story += [Spacer(1, 8 * mm), *paragraphs(layout.signature, right)]
    return story

