"""Small pictures of an hour: a bar for each minute, as SVG inside the page."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.web.template import Tag

HEIGHT = 26.0
STEP, WIDTH = 4, 3  # of a bar, with and without the gap behind it
LEAST = 1.5  # what is more than nothing is to be seen


def bars(counts: Sequence[int], name: str, kind: str = "bar") -> Tag:
    """A picture of `counts`, the highest as high as there is room; `kind` is a class of the style.

    `name` is read out to who cannot see it.
    """
    width = STEP * len(counts)
    most = max(counts, default=0)
    picture = _element(
        "svg",
        viewBox=f"0 0 {width} {HEIGHT:g}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{name} by minute: the most was {most}",
    )
    for number, count in enumerate(counts):
        if count:
            height = max(LEAST, (HEIGHT - 1) * count / most)
            picture(
                _element(
                    "rect",
                    x=number * STEP,
                    y=f"{HEIGHT - 1 - height:.1f}",
                    width=WIDTH,
                    height=f"{height:.1f}",
                    class_=kind,
                )
            )
    floor = f"{HEIGHT - 0.5:g}"
    return picture(_element("line", x1=0, x2=width, y1=floor, y2=floor, class_="base"))


def _element(name: str, **attributes: object) -> Tag:
    return Tag(name)(
        **{key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    )
