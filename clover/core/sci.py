"""Software Carbon Intensity (ISO/IEC 21031:2024): SCI = (E x I + M) per R, with R = one answered request.

E is all energy that the service holds, idle included; I the location-based average intensity while it was used; M the
part of the hardware's embodied emissions that its time is worth: TE x (time reserved / lifetime) x (resources
reserved / total). M is a band because published figures differ by a factor of ten; it is shown and never optimised
(run-time decisions that count sunk carbon can raise emissions: "The Sunk Carbon Fallacy", 2024).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from clover.core.units import J_PER_KWH
from clover.errors import ConfigurationError

YEAR_S = 365.25 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embodied:
    """Embodied emissions of one GPU with its share of a server, as a band.

    Attributes:
        low_kg, high_kg: kg CO2e.
        lifetime_years: Over which they are spread.
        source: Where the figures are from.
    """

    low_kg: float
    high_kg: float
    lifetime_years: float
    source: str


#: What is used where the user gives no band.
A100 = Embodied(
    low_kg=26.4,
    high_kg=318.0,
    lifetime_years=5.0,
    source="A100: low = ACT model, PCIe 40 GB board alone (sc23-sustainability data); high = with 1/8 of its server "
    "(Chien et al., HotCarbon'23); 5 years assumed (4 to 6 are usual)",
)


def embodied_band(text: str | None, gpu_models: Collection[str]) -> Embodied | None:
    """Return the user's band, else the known one where every GPU is an A100, else none: nothing is made up.

    Args:
        text: `low:high:years` in kg per GPU, `none` to leave it out, None for the known one.
        gpu_models: Models of the GPUs that were held, such as `a100-40gb`.

    Raises:
        ConfigurationError: The text says something else.
    """
    if text == "none":
        return None
    if text is None:
        return A100 if gpu_models and all(model.startswith("a100") for model in gpu_models) else None
    try:
        low, high, years = (float(part) for part in text.split(":"))
    except ValueError:
        low, high, years = 0.0, -1.0, 0.0
    if not (0.0 <= low <= high < float("inf") and 0.0 < years < float("inf")):
        raise ConfigurationError(f"--embodied = {text!r}: expected low:high:years in kg, such as 26.4:318:5, or none")
    return Embodied(low_kg=low, high_kg=high, lifetime_years=years, source="as given")


@dataclass(frozen=True, slots=True, kw_only=True)
class SciScore:
    """The score with its parts.

    Attributes:
        requests: R: how many requests the figures below are divided by.
        energy_kwh_per_request: E, PUE included.
        intensity_g_per_kwh: I, the mean over that energy; PUE is in E.
        operational_g_per_request: E x I.
        embodied_low_g_per_request, embodied_high_g_per_request: M; None without a band.
        score_low_g_per_request, score_high_g_per_request: The score; the operational part alone without a band.
        embodied_source: Where the band is from.
    """

    requests: int
    energy_kwh_per_request: float
    intensity_g_per_kwh: float
    operational_g_per_request: float
    embodied_low_g_per_request: float | None
    embodied_high_g_per_request: float | None
    score_low_g_per_request: float
    score_high_g_per_request: float
    embodied_source: str


def sci_score(
    *, energy_j: float, footprint_g: float, pue: float, gpu_s: float, requests: int, embodied: Embodied | None
) -> SciScore | None:
    """Return the score; None while nothing was answered or no energy was used.

    Args:
        energy_j: IT energy of the service, all causes.
        footprint_g: Its gCO2e, PUE included.
        pue: Power usage effectiveness that is in `footprint_g`.
        gpu_s: Seconds of GPUs that were held, summed over GPUs; all of each GPU is reserved.
        requests: Answered in that time.
        embodied: Of one GPU.
    """
    if requests <= 0 or energy_j <= 0.0:
        return None
    energy_kwh = energy_j / J_PER_KWH * pue / requests
    operational = footprint_g / requests
    low, high = (None, None) if embodied is None else _embodied(embodied, gpu_s, requests)
    return SciScore(
        requests=requests,
        energy_kwh_per_request=energy_kwh,
        intensity_g_per_kwh=operational / energy_kwh,
        operational_g_per_request=operational,
        embodied_low_g_per_request=low,
        embodied_high_g_per_request=high,
        score_low_g_per_request=operational + (low or 0.0),
        score_high_g_per_request=operational + (high or 0.0),
        embodied_source="" if embodied is None else embodied.source,
    )


def _embodied(embodied: Embodied, gpu_s: float, requests: int) -> tuple[float, float]:
    lives = gpu_s / (embodied.lifetime_years * YEAR_S)
    return 1e3 * embodied.low_kg * lives / requests, 1e3 * embodied.high_kg * lives / requests
