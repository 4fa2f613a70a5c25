"""Blocks of a document, and typst that sets them: data goes in as JSON, so hostile names print literally."""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

Block = dict[str, Any]
Part = dict[str, Any]

UNUSUAL = r"[^\u0000-\u024f\u2010-\u2027\u2032\u2192\u2212\u221e\u00a0]"
BEYOND_EMBEDDED_FONTS = 0x2E80  # from here on (CJK and further) glyphs come from the system's fonts


def plain(text: str) -> Part:
    return {"text": text}


def strong(text: str) -> Part:
    return {"text": text, "strong": True}


def code(text: str) -> Part:
    return {"text": text, "code": True}


def link(text: str, target: str) -> Part:
    return {"text": text, "link": target}


def _parts(parts: Sequence[Part | str]) -> list[Part]:
    return [plain(p) if isinstance(p, str) else p for p in parts]


def heading(text: str, level: int = 1) -> Block:
    return {"kind": "heading", "text": text, "level": level}


def paragraph(*parts: Part | str, sticky: bool = False, ragged: bool = False) -> Block:
    """Running text; `sticky` keeps it on the page of what follows, `ragged` leaves its words at their own distance."""
    return {"kind": "text", "parts": _parts(parts), "sticky": sticky, "ragged": ragged}


def answer(*parts: Part | str) -> Block:
    return {"kind": "answer", "parts": _parts(parts)}


def bullets(*entries: Sequence[Part | str]) -> Block:
    return {"kind": "list", "entries": [_parts(entry) for entry in entries]}


def listing(text: str) -> Block:
    return {"kind": "code", "text": text}


def contents() -> Block:
    return {"kind": "contents"}


def pagebreak() -> Block:
    return {"kind": "pagebreak"}


def picture(path: str, *, alt: str, caption: Sequence[Part | str], width: float = 1.0) -> Block:
    """A figure from `path`, relative to the run; `width` is a fraction of the text's."""
    return {"kind": "figure", "path": path, "alt": alt, "caption": _parts(caption), "width": width}


def table(
    columns: Mapping[str, str], rows: Sequence[Sequence[str]], *, caption: Sequence[Part | str], stretch: str = ""
) -> Block:
    """A table of texts; `columns` maps each heading to `"left"` or `"right"`.

    The column `stretch` takes the room that is left; without one all but the first share it.
    """
    return {
        "kind": "table",
        "columns": list(columns),
        "align": list(columns.values()),
        "widths": [int(name == stretch if stretch else number > 0) for number, name in enumerate(columns)],
        "rows": [list(row) for row in rows],
        "caption": _parts(caption),
    }


def compile_pdf(title: str, kicker: str, blocks: Sequence[Block], figures: Mapping[str, bytes]) -> bytes:
    """The PDF of `blocks`, tagged PDF/UA, the same bytes for the same input.

    Args:
        title: of the document.
        kicker: a few words above the title.
        blocks: in order.
        figures: SVG by the path that `picture` names.

    Raises:
        RuntimeError: typst refuses the document, or a font is missing.
    """
    import typst

    text = json.dumps({"title": title, "kicker": kicker, "blocks": list(blocks)}, ensure_ascii=False)
    try:
        return _set(text, figures)
    except typst.TypstError as error:
        if "could not be displayed" not in str(error):
            raise
        return _set(_escaped(text), figures)


def _escaped(text: str) -> str:
    """JSON with every character that no font here may have as its code point in words."""
    return re.sub(UNUSUAL, lambda found: f"<U+{ord(found[0]):04X}>", text)


def _set(text: str, figures: Mapping[str, bytes]) -> bytes:
    """The PDF of a document in JSON."""
    import typst

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        template = resources.files("gradlens").joinpath("report/template.typ").read_text(encoding="utf-8")
        (root / "report.typ").write_text(template, encoding="utf-8")
        (root / "document.json").write_text(text, encoding="utf-8")
        for path, content in figures.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        pdf, warnings = typst.compile_with_warnings(
            root / "report.typ",
            root=root,
            sys_inputs={"document": "document.json"},
            ignore_system_fonts=not any(ord(c) >= BEYOND_EMBEDDED_FONTS for c in text),
            pdf_standards="ua-1",
            timestamp=0,
            format="pdf",
        )
    missing = [str(w) for w in warnings if "unknown font family" in str(w)]
    if missing:
        raise RuntimeError(f"the report's font is missing: {missing[0]}")
    return bytes(pdf)
