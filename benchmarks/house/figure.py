"""The packages in their layers with the imports between them, as a picture: docs/images/architecture.svg.

Written as text, so that the same code always gives the same file. An arrow that others imply is left out: where a part imports
another through a third one, a direct import adds no line.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks import paths
from benchmarks.house import imports
from benchmarks.house.layers import Layers

FILE = paths.DOCS / "images" / "architecture.svg"
WIDTH, ROW, HEIGHT, MARGIN = 760, 62, 30, 16  # of the picture, from row to row, of a box, around all; in pixels
STYLE = """\
<style>
rect { fill: #eef3fb; stroke: #5b7fb5; rx: 5px; }
text { font: 14px sans-serif; text-anchor: middle; fill: #1b2a41; }
path { fill: none; stroke: #8a97a8; stroke-width: 1.2; marker-end: url(#tip); }
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0,0 L8,4 L0,8 z" style="fill: #8a97a8; stroke: none; marker-end: none"/></marker></defs>"""
Point = tuple[float, float]


def draw(layers: Layers, links: Iterable[tuple[str, str]]) -> str:
    """The picture: a row for each layer, the highest at the top."""
    centres = places(layers)
    height = 2 * MARGIN + ROW * (len(layers) - 1) + HEIGHT
    arrows = [arrow(centres[part], centres[target]) for part, target in sorted(imports.not_implied(links))]
    boxes = [box(name, centre) for name, centre in centres.items()]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    title = "<title>The packages of frugalseg in their layers; an arrow goes from a package to one that it imports</title>"
    return "\n".join(
        [
            head,
            title,
            STYLE,
            '<rect width="100%" height="100%" style="fill: white; stroke: none"/>',
            *arrows,
            *boxes,
            "</svg>",
            "",
        ]
    )


def places(layers: Layers) -> dict[str, Point]:
    """The centre of each part's box."""
    centres = {}
    for row, parts in enumerate(reversed(layers)):
        for column, part in enumerate(parts):
            centres[part] = (WIDTH * (column + 1) / (len(parts) + 1), MARGIN + ROW * row + HEIGHT / 2)
    return centres


def box(name: str, centre: Point) -> str:
    x, y = centre
    width = 9 * len(name) + 24
    rect = f'<rect x="{x - width / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{width}" height="{HEIGHT}"/>'
    return f'{rect}<text x="{x:.1f}" y="{y + 5:.1f}">{name}</text>'


def arrow(start: Point, end: Point) -> str:
    """A curve from the lower edge of one box to the upper edge of another."""
    (x, y), (u, v) = (start[0], start[1] + HEIGHT / 2), (end[0], end[1] - HEIGHT / 2)
    bend = (v - y) / 2
    return f'<path d="M{x:.1f},{y:.1f} C{x:.1f},{y + bend:.1f} {u:.1f},{v - bend:.1f} {u:.1f},{v:.1f}"/>'


def write(package: Path, layers: Layers, file: Path = FILE) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(draw(layers, imports.links(imports.imports(package))), encoding="utf-8")
