"""What all pictures share: size, axes, looks of variants that can be told apart in grey, and saving them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clover.analysis.frontier import pyplot
from clover.analysis.palette import LOOKS, look_of

WIDTH, HEIGHT = 9.0, 3.1
INK, GREY, OURS, BASE, RIGHTSIZED = "#222222", "#888888", "#0072b2", "#d55e00", "#7a7a7a"
#: What slices may be beside an instance: light, hatched.
_STATES = {
    "unallocated": ("#ffffff", "...."),
    "changing": ("#ffffff", "xxxx"),
    "parked": ("#eeeeee", "////"),
    "off": ("#eeeeee", "\\\\\\\\"),
    "not heard of": ("#ffffff", "oo"),
}
#: Sizes of instances from the largest: greys, so that colours keep meaning variants.
_SIZES = {"7g": "#303030", "4g": "#585858", "3g": "#808080", "2g": "#a8a8a8", "1g": "#d0d0d0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawn picture.

    Attributes:
        name: Of its files.
        title: Above it.
        text: What it shows, for the page and for who cannot see it.
        svg: The drawing.
        png: The same; empty if it was not asked for.
    """

    name: str
    title: str
    text: str
    svg: str
    png: bytes


class Drawer:
    """Makes pictures that all look alike.

    Args:
        order: Variants in the order of their looks.
        png: Whether PNG is made too.
    """

    def __init__(self, order: Sequence[str], *, png: bool = True) -> None:
        self.order = tuple(order)
        self._png = png
        self._plt = pyplot()

    def axes(self, *, height: float = HEIGHT, width: float = WIDTH) -> tuple[Any, Any]:
        """Return a new figure and its axes."""
        self._plt.rcParams.update(
            {
                "font.size": 9,
                "font.family": "DejaVu Sans",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "grid.color": "#e4e4e4",
                "grid.linewidth": 0.6,
                "axes.axisbelow": True,
                "hatch.linewidth": 0.5,
                "svg.fonttype": "path",
                "legend.frameon": False,
                "legend.fontsize": 8,
                "axes.titlesize": 10,
                "axes.titlelocation": "left",
            }
        )
        return self._plt.subplots(figsize=(width, height), layout="constrained")

    def finish(self, figure: Any, name: str, title: str, text: str) -> Picture:
        """Return the picture and forget the figure."""
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        # Ids in the drawing must differ between pictures of one page, and be the same for the same figures.
        self._plt.rcParams["svg.hashsalt"] = name
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        png = io.BytesIO()
        if self._png:
            figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
        self._plt.close(figure)
        body = svg.getvalue()
        return Picture(name=name, title=title, text=text, svg=body[body.index("<svg") :], png=png.getvalue())

    def stack(self, axes: Any, x: Any, parts: dict[str, Any], *, of_sizes: bool = False) -> None:
        """Draw parts that sum to a whole as steps on each other: variants, or what slices are."""
        low = 0.0 * next(iter(parts.values()))
        for name, values in parts.items():
            colour, hatch = self.slice_look(name) if of_sizes else self.variant_look(name)
            high = low + values
            axes.fill_between(
                x,
                _steps(low),
                _steps(high),
                step="post",
                facecolor=colour,
                hatch=hatch,
                edgecolor="#444444",
                linewidth=0.3,
                label=name,
            )
            low = high

    def variant_look(self, name: str) -> tuple[str, str]:
        """Return colour and hatch of a variant."""
        look = look_of(self.order, name)
        return look.colour, look.hatch

    @staticmethod
    def slice_look(name: str) -> tuple[str, str]:
        """Return colour and hatch of a size of instance, or of what slices are beside."""
        return _STATES[name] if name in _STATES else (_SIZES.get(name, LOOKS[-1].colour), "")

    @staticmethod
    def below(axes: Any, *, columns: int = 6, handles: Any = None) -> None:
        """Put the legend under the axes, where it hides nothing."""
        given = {} if handles is None else {"handles": handles}
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.19), ncols=columns, **given)


def _steps(values: Any) -> list[float]:
    """Return values of bins as points at their edges."""
    return [*values, values[-1]]


def time_axis(axes: Any, end_s: float) -> float:
    """Label the axis of time in a fitting unit and give its range; return seconds per unit."""
    seconds, unit = (3600.0, "h") if end_s > 3 * 3600 else (60.0, "min") if end_s > 180 else (1.0, "s")
    axes.set_xlim(0.0, end_s / seconds)
    axes.set_xlabel(f"time since the start of the load, {unit}")
    return seconds


def save(pictures: Sequence[Picture], folder: Path) -> None:
    """Write the files of pictures; raises OSError."""
    folder.mkdir()
    for picture in pictures:
        (folder / f"{picture.name}.svg").write_text(picture.svg)
        if picture.png:
            (folder / f"{picture.name}.png").write_bytes(picture.png)
