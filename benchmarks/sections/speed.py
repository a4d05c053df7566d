"""Speed and memory, from the files beside the measurements in benchmarks/speed."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.markdown import in_images, table
from benchmarks.results import Record
from benchmarks.sections.protocol import machine


def section(speeds: Mapping[str, Record]) -> list[str]:
    """A table for each file, by its name; nothing without files."""
    parts = [block for name, speed in speeds.items() for block in TABLES.get(name, measures)(speed)]
    return ["## Speed and memory", *parts] if parts else []


def measures(speed: Record) -> list[str]:
    """A file that lists what was measured."""
    where = f"{machine(speed)}; torch {speed['versions']['torch']}; `{speed['commit']}`"
    lines = [["measured", "value", "unit", "how"]]
    for entry in speed["measures"]:
        lines.append([in_images(entry["what"]), f"{entry['value']:.4g}", in_images(entry["unit"]), in_images(entry["how"])])
    return [f"### {speed['title']}", f"{where}; {speed['date']}.", table(lines)]


def crf(speed: Record) -> list[str]:
    """The DenseCRF beside pydensecrf2."""
    peaks, tools = {entry["classes"]: entry["MiB"] for entry in speed["peak_memory"]}, ("frugalseg", "pydensecrf2")
    lines = [
        ["classes", "torch threads", "frugalseg s", "pydensecrf2 s", "same label % of pixels", "frugalseg MB", "pydensecrf2 MB"]
    ]
    for entry in speed["time"]:
        seconds = (f"{entry['seconds'][tool]:.3f}" for tool in tools)
        memory = (str(peaks[entry["classes"]][tool]) for tool in tools)
        agreement = f"{100 * entry['argmax_agreement']['mean']:.2f}"
        lines.append([str(entry["classes"]), str(entry["torch_threads"]), *seconds, agreement, *memory])
    where = f"{machine(speed)}; torch {speed['machine']['versions']['torch']}; {speed['date']}; {speed['photos']} photos"
    return ["### DenseCRF beside pydensecrf2", f"{where} of {' × '.join(map(str, speed['size']))} pixels.", table(lines)]


def instances(speed: Record) -> list[str]:
    """Scoring of object masks beside the two libraries of COCO's metrics."""
    lines = [["tool", "encoding s", "scoring s", "total s", "more memory MB", "largest difference"]]
    for tool, entry in speed["tools"].items():
        times = (f"{entry[part]:.1f}" for part in ("encoding_s", "scoring_s", "total_s"))
        name = f"{tool} {speed['versions'].get(tool, '')}".strip()
        lines.append([name, *times, f"{entry['growth_mb']:.0f}", f"{speed['largest_difference'][tool]:.0e}"])
    images = f"{speed['images']:,} images ({speed['picture']}), {speed['detections']:,} detections"
    where = f"{images}; the COCO statistics of masks. {speed['machine']}; {speed['date']}."
    return ["### Scoring of objects, from masks in memory to the table", where, table(lines)]


TABLES = {"crf": crf, "instances": instances}  # files with a table of their own
