"""The program itself: how large it is as it is given out, without symbols."""

from pathlib import Path

from bench import measure

# MB.
SIZE = 40


def run(bed, asked):
    content = bed.context(0)
    size = Path(bed.program).stat().st_size
    content["targets"] = {"size of the program, stripped": measure.target(size / measure.MB, SIZE, "MB")}
    bed.save("binary", content)
