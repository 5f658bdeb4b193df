"""One self-contained page: tables, curves, rollouts and text, in the order given.

`render` fills report.html (inline style, inline SVG, base64 pictures): no script and no network, light and dark, from
400 px to wide. All text is escaped; only a text section's own `html` is taken as it is."""

import base64
import functools
import numbers
import os
import pathlib
import struct
from collections.abc import Sequence
from typing import Any

from ar1_jax.figures import curves

NEEDED = {
    "table": ("columns", "rows"),
    "curves": ("series",),
    "rollouts": ("items",),
    "text": (),
}
WIDE = 900  # px; a picture of this width cannot be read in half a page
READABLE = 760  # px; a wide picture is never shown narrower
OPTIONAL = ("kind", "title", "note")
EXTRA = {"text": ("html", "text"), "curves": ("x_label",)}


def render(
    path: str | os.PathLike, title: str, sections: Sequence[dict[str, Any]], subtitle: str = ""
) -> pathlib.Path:
    """Writes the page and returns its path. Sections, each with `kind` and, optionally, `title` and `note`:

    - table: columns [str], rows [[value]]; numbers are set right, None reads "not run".
    - curves: series [{name, x, y, panel (optional)}]; lines of one panel share a plot; x_label (optional).
    - rollouts: items [{image_png_bytes (optional), captions [str], title, facts {name: value} (optional)}].
    - text: text (paragraphs parted by a blank line) or html (trusted).

    Raises ValueError listing every section that does not fit."""
    check(sections)
    page = template().render(title=title, subtitle=subtitle, sections=[prepare(s) for s in sections])
    path = pathlib.Path(path)
    sibling = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    sibling.write_text(page, encoding="utf-8")
    os.replace(sibling, path)
    return path


@functools.cache
def template():
    """The page's template, every value escaped unless it is marked as markup."""
    import jinja2

    text = pathlib.Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(text)


def check(sections: Sequence[dict[str, Any]]) -> None:
    """ValueError with all sections of unknown kind, missing or unknown keys, or rows of a wrong length."""
    problems = []
    for index, section in enumerate(sections):
        where, kind = f"section {index} ({section.get('title', 'untitled')})", section.get("kind")
        if kind not in NEEDED:
            problems.append(f"{where}: kind {kind!r} is none of {', '.join(NEEDED)}")
            continue
        missing = [key for key in NEEDED[kind] if key not in section]
        unknown = sorted(set(section) - {*NEEDED[kind], *OPTIONAL, *EXTRA.get(kind, ())})
        problems += [f"{where}: lacks {key!r}" for key in missing]
        problems += [f"{where}: unknown key {key!r}" for key in unknown]
        if kind == "table" and not missing:
            width = len(section["columns"])
            problems += [
                f"{where}: row {i} has {len(row)} cells for {width} columns"
                for i, row in enumerate(section["rows"])
                if len(row) != width
            ]
    if problems:
        raise ValueError("report: " + "\n  ".join(problems))


def prepare(section: dict[str, Any]) -> dict[str, Any]:
    """A section as the template wants it: cells as text with a class, curves drawn, pictures encoded."""
    out = {"title": "", "note": ""} | {k: v for k, v in section.items() if v is not None}
    if out["kind"] == "table":
        out["rows"] = [[cell(value) for value in row] for row in section["rows"]]
        out["numeric"] = [
            {"number"} <= {c[1] for c in column} <= {"number", "missing"} for column in zip(*out["rows"])
        ] or [False] * len(section["columns"])
    elif out["kind"] == "curves":
        out["panels"], out["x_label"] = curves.panels(section["series"]), section.get("x_label", "")
    elif out["kind"] == "rollouts":
        out["items"] = [card(item) for item in section["items"]]
    else:
        out["paragraphs"] = [p for p in str(section.get("text") or "").split("\n\n") if p.strip()]
        out["html"] = section.get("html") or ""
    return out


def cell(value: Any) -> tuple[str, str]:
    """(text, class) of a table cell: "number", "missing" (None or not finite), "figures" (a text that begins with a
    number and is kept in one line, such as an interval), or "" for text."""
    if value is None:
        return "not run", "missing"
    if isinstance(value, bool):
        return ("yes" if value else "no"), ""
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}", "number"
    if isinstance(value, numbers.Real) or getattr(value, "shape", None) == ():
        value = float(value)
        return (curves.number(value), "number") if abs(value) < float("inf") else (str(value), "missing")
    text = str(value)
    return text, "figures" if len(text) <= 30 and text.lstrip("+-−")[:1].isdigit() else ""


def card(item: dict[str, Any]) -> dict[str, Any]:
    """A rollout with its picture as a data URL; a wide picture takes the whole row, and scrolls on a small screen."""
    picture = item.get("image_png_bytes")
    width = struct.unpack(">I", picture[16:20])[0] if picture else 0  # IHDR of a PNG
    facts = {name: cell(value)[0] for name, value in (item.get("facts") or {}).items()}
    return {
        "title": item.get("title", ""),
        "image": f"data:image/png;base64,{base64.b64encode(picture).decode()}" if picture else "",
        "wide": width > WIDE,
        "least": min(width, READABLE),
        "captions": [str(c) for c in item.get("captions", ())],
        "facts": facts,
    }
