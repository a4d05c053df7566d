"""Everything that can be wrong with a data set: one table of stable codes, and the counting of what was met.

Nothing is dropped silently: a reader that leaves an image or a label out says so here, and `check` prints it.
The table in docs/check.md is generated from `CODES`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from frugalseg.errors import FrugalsegError

EXAMPLES = 5


class Code(NamedTuple):
    """severity: error (training should not start), warning or note. effect: what the reader does about it."""

    severity: str
    effect: str
    message: str
    fix: str


PICTURE, LABEL, ROW = "image left out", "label withheld", "row left out"  # the effects that `skip_limit` limits
OBJECT = "object left out"  # likewise
CLAIM, ARCHIVE = "claim left out", "rest of the archive left out"
NONE = ""

CODES: dict[str, Code] = {
    "unreadable": Code("error", NONE, "The data set cannot be read at all.", "Follow the message; `frugalseg check` again."),
    "too-many-left-out": Code(
        "error",
        NONE,
        "More images, labels or rows cannot be used than skip_limit allows.",
        "Correct what the other lines name, or accept it with --skip-limit 1.0 (in Python skip_limit=1.0).",
    ),
    "nothing-to-train": Code(
        "error", NONE, "No method can learn from the labels that are there.", "Add the labels that the list of methods asks for."
    ),
    "archive-broken": Code(
        "warning",
        ARCHIVE,
        "Archives that are damaged, cut short, or compressed tars; the images behind the fault are missing.",
        "Copy the archive again; make a plain tar of a compressed one (`gunzip FILE.tar.gz`).",
    ),
    "image-broken": Code(
        "warning",
        PICTURE,
        "Images that cannot be decoded: truncated, empty or no image at all.",
        "Copy the files again from their source, or delete them.",
    ),
    "image-too-large": Code(
        "warning", PICTURE, "Images with more pixels than the limit.", "Shrink them, or raise the limit with max_pixels=…"
    ),
    "image-range": Code(
        "warning",
        PICTURE,
        "Float or 32-bit images whose values fit none of the ranges 0…1, 0…255, 0…65535.",
        "Scale the values to 0…1 or save as 16-bit grey.",
    ),
    "image-missing": Code(
        "warning", PICTURE, "A list names images that are not there.", "Add the files, or remove the names from the list."
    ),
    "image-twice": Code(
        "warning", PICTURE, "Two files have the same name apart from the ending; the first is used.", "Rename one of the two."
    ),
    "list-duplicate": Code("note", NONE, "Names that stand twice in one list; used once.", "Delete the second line."),
    "name-outside": Code(
        "warning",
        PICTURE,
        "Names that are no plain path inside the data folder: absolute, with `..`, with control "
        "characters, links that lead outside, and linked folders.",
        "Correct the names; for links you trust, follow_links=True.",
    ),
    "file-ignored": Code(
        "note",
        NONE,
        "Files with an ending that is no known image format.",
        "Convert them to JPEG or PNG if they are images (HEIC, RAW, …).",
    ),
    "image-16-bit": Code(
        "note",
        NONE,
        "Images with 16 or 32 bits; they are scaled by their full range (65535 becomes 255).",
        "If they look dark (12 used bits of 16), stretch them before.",
    ),
    "image-alpha": Code(
        "note", NONE, "Images with transparency; they are laid on white.", "Flatten them yourself if white is wrong."
    ),
    "exif-rotated": Code(
        "warning",
        NONE,
        "Images that their EXIF entry turns; they are read turned. A mask of the unturned size is "
        "turned along; boxes, and masks of square or upside-down images, are taken as drawn on the turned image.",
        "Look at one overlay; or turn the pixels for good: `exiftran -ai FILE` or `mogrify -auto-orient FILE`.",
    ),
    "mask-broken": Code("warning", LABEL, "Masks that cannot be decoded.", "Export the masks again."),
    "mask-0-255": Code(
        "error",
        LABEL,
        "Masks with no value but 0 and 255; 255 means `ignore`, so no class is there.",
        'Write class ids: `python -c "import sys; from PIL import Image; '
        '[Image.open(f).point(lambda v: v and 1).save(f) for f in sys.argv[1:]]" masks/*.png`',
    ),
    "mask-rgb": Code(
        "error",
        LABEL,
        "Masks that store colours, not class ids.",
        "Export as single-channel (or palette) PNG: 0 background, 1…C classes, 255 ignore.",
    ),
    "mask-lossy": Code("error", LABEL, "Masks stored as JPEG, which changes ids at borders.", "Export the masks as PNG."),
    "mask-unknown-id": Code(
        "error",
        LABEL,
        "Masks with ids beyond the class list.",
        "Add the missing names to classes.txt (line i = id i), or correct the masks.",
    ),
    "mask-object-ids": Code(
        "error",
        NONE,
        "Masks that seem to number objects (1, 2, 3, … in each mask), not classes.",
        'Call the folder objects/ (or pass layout="objects") to learn objects; if they are classes, name them in classes.txt.',
    ),
    "mask-size": Code("warning", LABEL, "Masks whose size differs from their image's.", "Export them at the image's size."),
    "mask-missing": Code(
        "note", NONE, "Images without a mask, though others have one.", "Nothing, if only some images were to be labelled."
    ),
    "mask-orphan": Code("warning", NONE, "Masks without an image.", "Give the image the mask's name, or delete the mask."),
    "annotation-broken": Code(
        "warning",
        LABEL,
        "Annotation files that cannot be read, or that hold a DOCTYPE or ENTITY (refused: they can fill the memory).",
        "Export the annotations again.",
    ),
    "annotation-missing": Code(
        "note",
        NONE,
        "Images without an annotation file; their tags are unknown, not absent.",
        "Nothing, if only some images were to be tagged.",
    ),
    "box-outside": Code(
        "warning",
        NONE,
        "Boxes that leave their image or are empty.",
        "Correct the boxes; they may belong to a resized image.",
    ),
    "annotation-size": Code(
        "warning",
        LABEL,
        "COCO annotations drawn on another size than the image has.",
        "Export the annotations again for these very files, or give the images their old size.",
    ),
    "image-duplicate-id": Code(
        "warning",
        PICTURE,
        "Images of a COCO file without an id, with that of another, or listed before.",
        "Give each image one entry with an id of its own.",
    ),
    "object-unknown-image": Code(
        "warning", OBJECT, "COCO annotations of an image that the file does not list.", "Correct image_id, or list the image."
    ),
    "object-unknown-class": Code(
        "warning", OBJECT, "COCO annotations of a category the file does not list.", "Correct category_id, or list the category."
    ),
    "object-duplicate-id": Code(
        "note",
        NONE,
        "COCO annotations without an id of their own; objects are numbered by their order, so none is lost here.",
        "Number the annotations 1, 2, … before other tools score with the file: they mix such objects up.",
    ),
    "object-twice": Code(
        "warning", OBJECT, "The same object twice: class, box and mask are equal.", "Delete one of the two annotations."
    ),
    "object-without-mask": Code(
        "warning", OBJECT, "Objects without a mask, though others of the file have one.", "Draw them, or delete the annotations."
    ),
    "object-empty": Code(
        "warning", OBJECT, "Objects whose mask has not one pixel in the image.", "Delete them; they may belong to another size."
    ),
    "polygon-broken": Code(
        "warning",
        OBJECT,
        "Polygons with an odd number of coordinates, fewer than three points, NaN, points far outside, or an endless outline.",
        "Export the object again; a hole needs run lengths (RLE).",
    ),
    "rle-broken": Code(
        "warning",
        OBJECT,
        "Run-length codes that are none, or that are for another size than their image's.",
        "Export the object again, as pycocotools' encode writes it: the size is [height, width], columns come first.",
    ),
    "box-broken": Code(
        "warning", OBJECT, "Boxes that are no numbers, have no area, or lie outside.", "Correct bbox: [x, y, width, height]."
    ),
    "box-replaced": Code(
        "note",
        NONE,
        "Boxes that are none, or that miss their object's mask; the mask's extent is taken.",
        "Correct bbox: [x, y, width, height].",
    ),
    "object-ids": Code(
        "warning", LABEL, "Object maps with ids below 0 or above 65535.", "Number the objects of each image 1, 2, 3, …"
    ),
    "tag-unknown-file": Code(
        "warning",
        ROW,
        "Rows of a CSV file that name no image.",
        "Correct the name: path relative to the data folder, with or without the ending.",
    ),
    "tag-duplicate-row": Code("warning", NONE, "Images with several rows in tags.csv; their tags are united.", "Merge the rows."),
    "tag-unknown-class": Code(
        "warning",
        CLAIM,
        "Class names that are not in the class list; that claim is not used.",
        "Add the name to classes.txt, or correct the spelling.",
    ),
    "tag-missing": Code(
        "note", NONE, "Images without known tags, though others have them.", "Nothing, if only some were to be tagged."
    ),
    "no-tags": Code("note", NONE, "Images that have none of the classes.", "Nothing: they teach the background."),
    "all-tags": Code("note", NONE, "Images that have every class.", "Look at them: they tell a tag classifier nothing."),
    "class-without-picture": Code(
        "warning",
        NONE,
        "Classes that no usable image has, perhaps because theirs are broken. They stay in the list and can not be learned.",
        "Mend or add images of them, or take the class out.",
    ),
    "class-absent": Code(
        "warning", NONE, "Classes without a single example in a split.", "Move images between splits, or leave the class out."
    ),
    "class-everywhere": Code(
        "warning",
        NONE,
        "Classes that every tagged image of a split has; tags alone cannot say where they are.",
        "Add images without the class.",
    ),
    "class-similar": Code("warning", NONE, "Class names that differ only in case, spaces or punctuation.", "Use one spelling."),
    "class-guessed": Code(
        "warning",
        NONE,
        "Nobody says which id of the masks is which class; numbers, or the alphabetical order of the names found, stand in.",
        "Write classes.txt in the data folder: line i names id i.",
    ),
    "duplicate-across-splits": Code(
        "warning",
        NONE,
        "The same image in two splits that are scored against each other; scores come out too high.",
        "Remove it from one of the two.",
    ),
    "duplicate-in-split": Code("note", NONE, "The same image twice in one split under different names.", "Delete one."),
    "split-empty": Code("warning", NONE, "Splits without an image.", "Fill or delete the list."),
}


class DataError(FrugalsegError, ValueError):
    """The data set cannot be used as asked. The message says what, got, expected and what to type."""


@dataclass(frozen=True)
class Problem:
    """One kind of fault and what it was met in."""

    code: str
    items: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many items have it."""
        return len(self.items)

    @property
    def examples(self) -> str:
        """The first few items, in words."""
        return ", ".join(self.items[:EXAMPLES]) + (", …" if self.count > EXAMPLES else "")

    @property
    def severity(self) -> str:
        """error, warning or note."""
        return CODES[self.code].severity

    @property
    def effect(self) -> str:
        """What it does to the items, such as "image left out"; empty for nothing."""
        return CODES[self.code].effect

    @property
    def message(self) -> str:
        """What is wrong, in a sentence."""
        return CODES[self.code].message

    @property
    def fix(self) -> str:
        """What to do about it."""
        return CODES[self.code].fix

    def __str__(self) -> str:
        effect = f" ({self.effect})" if self.effect else ""
        return f"{self.severity} {self.code}: {self.count}{effect}. {self.message} E.g. {self.examples}. {self.fix}"


class Problems:
    """Gathers faults by code while a data set is read; the same fault of the same item counts once.

    seen: how many things were looked at, by the effect that a fault in them has; what a share is a share of.
    """

    def __init__(self) -> None:
        self._items: dict[str, dict[str, None]] = {code: {} for code in CODES}
        self.seen: Counter[str] = Counter()

    def add(self, code: str, item: str) -> None:
        """Note that an item has the fault of this code."""
        self._items[code][item if item.isprintable() else ascii(item)[1:-1]] = None

    def counts(self) -> Counter[str]:
        """How often each effect was met."""
        met: Counter[str] = Counter()
        for code, items in self._items.items():
            met[CODES[code].effect] += len(items)
        return met

    def list(self) -> list[Problem]:
        """All problems met, in the order of the table of codes."""
        return [Problem(code, [*items]) for code, items in self._items.items() if items]


def markdown() -> str:
    """The table of codes as it stands in docs/check.md."""
    rows = [f"| `{code}` | {known.severity} | {known.effect} | {known.message} | {known.fix} |" for code, known in CODES.items()]
    return "\n".join(["| code | severity | effect | meaning | what to do |", "|---|---|---|---|---|", *rows])
