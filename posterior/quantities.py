"""How the quantities of a posterior are called: in words for tables, by symbols where room is short, in TeX for pictures."""

from collections.abc import Iterable
from dataclasses import dataclass

from sedcast.emulator.prior import PARAMETER_LABELS

__all__ = [
    "QUANTITIES",
    "QUANTITY_LABELS",
    "SHOWN_QUANTITIES",
    "Quantity",
    "column_unit",
    "description",
    "percentile_column",
    "table_cells",
    "with_unit",
]


@dataclass(frozen=True)
class Quantity:
    """One quantity's names.

    Attributes
    ----------
    words : for tables.
    unit : of the value, "" if it has none; logarithms are to base 10.
    symbol : for the axes of small charts.
    wavelength : of an optical depth.
    """

    words: str
    unit: str
    symbol: str
    wavelength: str = ""

    @property
    def shown_unit(self) -> str:
        """The unit, or the wavelength of an optical depth, for tables."""
        return self.unit or self.wavelength


QUANTITIES = {
    "zred": Quantity("redshift", "", "z"),
    "log_mstar": Quantity("log mass formed", "Msun", "log M⋆ formed"),
    "log_mstar_surviving": Quantity("log mass surviving", "Msun", "log M⋆ surviving"),
    "log_sfr_1gyr": Quantity("log SFR, last 1 Gyr", "Msun/yr", "log SFR, 1 Gyr"),
    "log_sfr_100myr": Quantity("log SFR, last 100 Myr", "Msun/yr", "log SFR, 100 Myr"),
    "log_ssfr_1gyr": Quantity("log sSFR, last 1 Gyr", "1/yr", "log sSFR, 1 Gyr"),
    "log_ssfr_100myr": Quantity("log sSFR, last 100 Myr", "1/yr", "log sSFR, 100 Myr"),
    "log_z_mw": Quantity("log Z, mass-weighted", "fraction", "log Z, mass-weighted"),
    "t_mw_gyr": Quantity("age, mass-weighted", "Gyr", "age, mass-weighted"),
    "t50_gyr": Quantity("age, half-mass (t50)", "Gyr", "t50"),
    "fburst": Quantity("burst's mass fraction", "", "burst fraction"),
    "tburst": Quantity("burst's lookback time", "Gyr", "time of burst"),
    "dust2": Quantity("diffuse dust, depth", "", "τ ISM", "5500 Å"),
    "a_v": Quantity("A_V, no birth clouds", "mag", "A_V, ISM"),
    "dust1": Quantity("birth clouds, depth", "", "τ birth cloud", "5500 Å"),
    "dust_index": Quantity("slope of dust curve", "", "n dust"),
}
"""Those that mean something by themselves, in the order of tables: weights of the bases mean little alone."""

_WEIGHTS = {f"beta{k}_sfh": f"weight of basis {k} of the star-formation history" for k in range(1, 5)}
_WEIGHTS |= {f"gamma{k}_zh": f"weight of basis {k} of the metallicity history" for k in range(1, 3)}

# Of those that two digits after the point would not tell apart.
_FORMATS = {"zred": ".4f", "gamma1_zh": ".1g", "gamma2_zh": ".1g"}

_COLUMNS = {
    "id": "id of the galaxy",
    "flux": "AB fluxes in the file's bands [nanomaggies]",
    "flux_ivar": "inverse variances of flux, 0 if not measured [nanomaggies^-2]",
    "status": "why there is no posterior, empty if there is one",
    "flags": "why not to take the posterior as it is, empty if nothing is odd",
    "good": "has a posterior and no flags",
    "score": "share of training galaxies that are at least as unusual",
    "efficiency": "effective share of the draws that were weighed, 1 at best",
    "log_evidence": "natural log of the evidence, for fluxes in nanomaggies",
    "log_evidence_error": "standard error of log_evidence",
    "ess": "effective number of weighed draws",
    "khat": "Pareto shape of the weights' tail, good below 0.7",
    "step": "proposal of refinement that was kept",
}


def description(name: str, percentile: str = "") -> str:
    """What a column of a file is, or a percentile of a quantity, with its unit: ASCII."""
    if percentile:
        return f"{description(name)}, percentile {percentile}"
    if told := _WEIGHTS.get(name) or _COLUMNS.get(name):
        return told
    quantity = QUANTITIES[name]
    unit = quantity.unit or (f"at {quantity.wavelength.replace('Å', 'Angstrom')}" if quantity.wavelength else "")
    return quantity.words + (f" [{unit}]" if unit else "")


def percentile_column(name: str, percentile: float) -> str:
    """The column of a percentile of a quantity in tables: a name in FITS, SQL and Python alike, ``a_v_p50`` or ``a_v_p2_5``."""
    return f"{name}_p{percentile:g}".replace(".", "_")


def with_unit(name: str) -> str:
    """A quantity's words and unit; weights of the bases, which mean little alone, are called by their name."""
    quantity = QUANTITIES.get(name)
    if quantity is None:
        return name
    return quantity.words + (f" [{quantity.shown_unit}]" if quantity.shown_unit else "")


def table_cells(name: str, values: Iterable[float]) -> tuple[str, ...]:
    """Values of a quantity for a table, in six columns or fewer."""
    return tuple(format(value, _FORMATS.get(name, ".2f")) for value in values)


def column_unit(name: str) -> str | None:
    """The unit of a quantity's numbers, as FITS spells it; None if they have none, as logarithms: `description` has theirs.

    Astropy reads a logarithm's unit in FITS, "log(solMass)" or "dex(solMass)", as one that it does not know, with a warning.
    """
    quantity = QUANTITIES.get(name)
    return None if quantity is None or name.startswith("log_") else quantity.unit or None


QUANTITY_LABELS = {
    "log_mstar_surviving": r"$\log_{10} M_\ast$ surviving [M$_\odot$]",
    "log_sfr_1gyr": r"$\log_{10}\,{\rm SFR}_{\rm 1\ Gyr}$ [M$_\odot$ yr$^{-1}$]",
    "log_sfr_100myr": r"$\log_{10}\,{\rm SFR}_{\rm 100\ Myr}$ [M$_\odot$ yr$^{-1}$]",
    "log_ssfr_1gyr": r"$\log_{10}\,{\rm sSFR}_{\rm 1\ Gyr}$ [yr$^{-1}$]",
    "log_ssfr_100myr": r"$\log_{10}\,{\rm sSFR}_{\rm 100\ Myr}$ [yr$^{-1}$]",
    "log_z_mw": r"$\log_{10} Z_{\rm MW}$",
    "t_mw_gyr": r"$t_{\rm MW}$ [Gyr]",
    "t50_gyr": r"$t_{50}$ [Gyr]",
    "a_v": "$A_V$ [mag]",
    "zred": "$z$",
    **PARAMETER_LABELS,
}
"""TeX, with units, of derived quantities and of all parameters."""

SHOWN_QUANTITIES = ("log_mstar", "log_sfr_1gyr", "log_z_mw", "t_mw_gyr", "dust2", "dust_index")
"""What tables and corner plots of single galaxies show where nothing else is asked for."""
