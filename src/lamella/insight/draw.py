"""An explanation as a drawing: SVG, or a web page with the drawing and all its text; one file each, dark and light.

Every name in it is foreign text: it is escaped, and what XML cannot hold is shown as an escape.  Nothing is loaded from
anywhere, nothing runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lamella.insight.explain import Explanation, LayerStory
from lamella.insight.history import why_idle
from lamella.model.units import human_size

_WIDTH: Final = 960
_MARGIN: Final = 24
_LAYER: Final = 76
_STEP: Final = 24
_GAP: Final = 6
_TEXT: Final = 104
"""Characters of a step that fit in a box."""
_BAR: Final = 160
_SHARERS: Final = 3

_COLOURS: Final = """\
:root { --page: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #8c959f; --box: #eaf2fb; --init: #fff4d6;
  --writable: #e3f6e5; --gone: #ffe3e0; --bar: #2f6fb3; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --ink: #e6edf3; --soft: #9aa5b1; --line: #57606a;
  --box: #16263a; --init: #3a2f12; --writable: #12321a; --gone: #4a1d1a; --bar: #6cb0f5; } }
"""
_DRAWING: Final = """\
.page { fill: var(--page); } text { fill: var(--ink); font: 14px system-ui, sans-serif; }
.title { font-size: 20px; font-weight: 600; } .soft { fill: var(--soft); font-size: 12px; }
.mono { fill: var(--soft); font: 11px ui-monospace, monospace; } .box { fill: var(--box); stroke: var(--line); }
.init { fill: var(--init); } .writable { fill: var(--writable); } .gone { fill: var(--gone); }
.bar { fill: var(--bar); } .rail { fill: none; stroke: var(--line); } .step { font-weight: 600; }
.thin { stroke: var(--line); stroke-dasharray: 3 3; }
"""
_PAGE: Final = """\
:root { color-scheme: light dark; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
svg { width: 100%; height: auto; } table { border-collapse: collapse; width: 100%; table-layout: fixed; }
th.narrow { width: 4rem; } th.wide { width: 8rem; } td { overflow-wrap: anywhere; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .5rem; text-align: left; vertical-align: top; }
td.number { text-align: right; } code, pre { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; } caption { text-align: left; font-weight: 600; padding: .5rem 0; }
.meta td { color: var(--soft); }
"""


def draw_svg(story: Explanation) -> str:
    """Return the stack as an SVG document, the base at the bottom."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_svg(story, _COLOURS + _DRAWING)}\n'


def draw_html(story: Explanation) -> str:
    """Return a web page: the drawing, then every layer and step, the mounts and the relatives as text."""
    name = clean(_title(story))
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>",
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
        f"<title>{name}</title>\n<style>\n{_COLOURS}{_PAGE}{_DRAWING}</style>\n</head>\n<body>\n<main>",
        f"<h1>{name}</h1>\n<p>{clean(_facts(story))}</p>",
        _svg(story, ""),
        *_table(story),
        *_container(story),
        *_relatives(story),
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def clean(text: str) -> str:
    """Make foreign text fit for XML and HTML: markup is escaped, characters that XML does not have are spelled out."""
    shown = "".join(c if c.isprintable() else _escaped(c) for c in text)
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        shown = shown.replace(plain, escaped)
    return shown


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character in "\n\t\r":
        return " "
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _title(story: Explanation) -> str:
    names = ", ".join(story.names) if story.kind == "image" and story.names else story.name
    return f"{story.kind} {names}"


def _facts(story: Explanation) -> str:
    count = len(story.layers)
    facts = [story.id.removeprefix("sha256:")[:12], story.platform, human_size(story.size, precision=3)]
    facts.append(f"{count} layer{'s' if count != 1 else ''}")
    if story.container is not None:
        facts.append(f"{story.container.status}, of {story.container.image_name}")
    facts += [f"{story.store} ({story.driver})", story.root]
    return " · ".join(fact for fact in facts if fact)


def _svg(story: Explanation, style: str) -> str:
    rows = _rows(story)
    height = 100 + sum(_LAYER if layer is not None else _STEP for layer, _ in rows) + _GAP * len(rows) + _MARGIN
    largest = max((layer.size or 0 for layer in story.layers), default=0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"',
        'role="img" aria-labelledby="stack-title stack-text">',
        f'<title id="stack-title">{clean(_title(story))}</title>',
        f'<desc id="stack-text">{clean(_described(story))}</desc>',
    ]
    if style:
        parts.append(f"<style>\n{style}</style>")
    parts += [
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="{_MARGIN}" y="38">{clean(_shorten(_title(story), 80))}</text>',
        f'<text class="soft" x="{_MARGIN}" y="60">{clean(_shorten(_facts(story), 140))}</text>',
        f'<text class="soft" x="{_MARGIN}" y="80">the base is at the bottom</text>',
    ]
    top = 92
    for layer, text in rows:
        if layer is None:
            parts += _draw_step(text, top)
            top += _STEP + _GAP
        else:
            parts += _draw_layer(story, layer, text, top, largest)
            top += _LAYER + _GAP
    parts.append("</svg>")
    return "\n".join(parts)


def _rows(story: Explanation) -> list[tuple[LayerStory | None, str]]:
    """Return layers and the steps between them, topmost first."""
    layers = {layer.number: layer for layer in story.layers}
    rows: list[tuple[LayerStory | None, str]] = []
    for step in story.steps:
        layer = None if step.layer is None else layers.pop(step.layer, None)
        rows.append((layer, step.instruction))
    own = {"init": "init layer: /etc/hosts, /etc/hostname, /etc/resolv.conf", "writable": "writable layer"}
    rows += [(layer, own.get(layer.role, "(the image does not tell)")) for layer in layers.values()]
    return rows[::-1]


def _draw_layer(story: Explanation, layer: LayerStory, text: str, top: int, largest: int) -> Iterator[str]:
    width = _WIDTH - 2 * _MARGIN
    kind = layer.role if layer.present else "gone"
    bar = _BAR * (layer.size or 0) // largest if largest else 0
    size = "size unknown" if layer.size is None else human_size(layer.size, precision=3)
    facts = "  ·  ".join(fact for fact in (_files(layer), _shared(story, layer)) if fact)
    identity = layer.diff_id or layer.cache_id or ""
    left = _MARGIN + 56
    yield f'<g role="group" aria-label="{clean(f"layer {layer.number}: {text}, {size}")}">'
    yield f"<title>{clean(text)}</title>"
    yield f'<rect class="box {kind}" x="{_MARGIN}" y="{top}" width="{width}" height="{_LAYER}" rx="6"/>'
    yield f'<text class="title" x="{_MARGIN + 14}" y="{top + 44}">{layer.number}</text>'
    yield f'<text class="step" x="{left}" y="{top + 22}">{clean(_shorten(text, _TEXT))}</text>'
    yield f'<text class="soft" x="{left}" y="{top + 42}">{clean(_shorten(facts, 100))}</text>'
    yield f'<text class="mono" x="{left}" y="{top + 61}">{clean(_shorten(layer.directory or identity, 112))}</text>'
    right = _WIDTH - _MARGIN - 14 - _BAR
    yield f'<rect class="rail" x="{right}" y="{top + 34}" width="{_BAR}" height="10" rx="2"/>'
    yield f'<rect class="bar" x="{right}" y="{top + 34}" width="{bar}" height="10" rx="2"/>'
    yield f'<text class="soft" x="{right - 8}" y="{top + 43}" text-anchor="end">{clean(size)}</text>'
    yield "</g>"


def _draw_step(text: str, top: int) -> Iterator[str]:
    middle = top + _STEP // 2
    shown = clean(_shorten(text, _TEXT))
    yield f"<g><title>{clean(text)}</title>"
    yield f'<line class="thin" x1="{_MARGIN}" y1="{middle}" x2="{_MARGIN + 44}" y2="{middle}"/>'
    yield f'<text class="soft" x="{_MARGIN + 56}" y="{middle + 4}">{shown}</text></g>'


def _files(layer: LayerStory) -> str:
    if layer.files is None:
        return "files not counted" if layer.present else "the directory is missing"
    parts = [(layer.files.added, "added"), (layer.files.changed, "changed"), (layer.files.deleted, "deleted")]
    return ", ".join(f"{count:,} {word}" for count, word in parts if count) or "no files"


def _shared(story: Explanation, layer: LayerStory) -> str:
    if not layer.shared_by or layer.diff_id is None:
        return ""
    names = [item.names[0] for item in story.relatives if item.layers >= layer.number and item.names][:_SHARERS]
    others = layer.shared_by - len(names)
    text = ", ".join(names)
    if not others:
        return f"shared with {text}"
    return f"shared with {text} and {others} more" if text else f"shared with {others} untagged"


def _described(story: Explanation) -> str:
    lines = [_facts(story)]
    for layer, text in _rows(story)[::-1]:
        if layer is None:
            lines.append(f"{why_idle(text)}: {text}")
        else:
            size = "" if layer.size is None else f", {human_size(layer.size, precision=3)}"
            lines.append(f"layer {layer.number}: {text}{size}, {_files(layer)}")
    return ". ".join(lines)


def _table(story: Explanation) -> Iterator[str]:
    yield "<table>\n<caption>Layers and steps, the base first</caption>"
    yield '<thead><tr><th class="narrow">Layer</th><th>Step</th><th class="narrow">Size</th>'
    yield '<th class="wide">Files</th><th class="wide">Shared</th></tr></thead>\n<tbody>'
    for layer, text in _rows(story)[::-1]:
        if layer is None:
            yield f'<tr class="meta"><td></td><td>{clean(text)}</td><td></td><td>{why_idle(text)}</td><td></td></tr>'
            continue
        size = "" if layer.size is None else human_size(layer.size, precision=3)
        ids = (("diff ID", layer.diff_id), ("chain ID", layer.chain_id), ("cache ID", layer.cache_id))
        places = [*ids, ("directory", layer.directory)]
        details = "".join(f"<br/>{name} <code>{clean(value)}</code>" for name, value in places if value)
        yield (
            f'<tr><td class="number">{layer.number}</td><td>{clean(text)}{details}</td>'
            f'<td class="number">{clean(size)}</td><td>{clean(_files(layer))}</td>'
            f"<td>{clean(_shared(story, layer))}</td></tr>"
        )
    yield "</tbody>\n</table>"


def _container(story: Explanation) -> Iterator[str]:
    container = story.container
    if container is None:
        return
    yield f"<h2>Mount</h2>\n<p>merged: <code>{clean(container.merged or 'none')}</code></p>"
    if not container.mounts:
        yield "<p>The container is not mounted.</p>"
    for mount in container.mounts:
        where = "" if mount.seen_by == "self" else f", as process {mount.seen_by} sees it"
        yield f"<p>{clean(mount.fstype)} on <code>{clean(mount.target)}</code>{clean(where)}</p>"
        lines = [mount.options, *mount.super_options.replace(":", ",    : ").split(",")]
        yield f"<pre>{chr(10).join(clean(line) for line in lines)}</pre>"


def _relatives(story: Explanation) -> Iterator[str]:
    if not story.relatives:
        return
    yield "<h2>Images on the same base</h2>\n<ul>"
    for item in story.relatives:
        name = ", ".join(item.names) or item.id.removeprefix("sha256:")[:12]
        yield f"<li>{clean(name)}: {item.layers} layer{'s' if item.layers != 1 else ''} shared</li>"
    yield "</ul>"


def _shorten(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
