"""How the quantities of a posterior are called: in words for tables, by symbols where room is short, in TeX for pictures."""

from dataclasses import dataclass

from sedcast.emulator.prior import PARAMETER_LABELS

__all__ = ["QUANTITIES", "QUANTITY_LABELS", "SHOWN_QUANTITIES", "Quantity", "description"]


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


QUANTITIES = {
    "zred": Quantity("redshift", "", "z"),
    "log_mstar": Quantity("log mass formed", "Msun", "log M⋆ formed"),
    "log_mstar_surviving": Quantity("log mass surviving", "Msun", "log M⋆ surviving"),
    "log_sfr_1gyr": Quantity("log SFR, last 1 Gyr", "Msun/yr", "log SFR, 1 Gyr"),
    "log_sfr_100myr": Quantity("log SFR, last 100 Myr", "Msun/yr", "log SFR, 100 Myr"),
    "log_ssfr_1gyr": Quantity("log sSFR, last 1 Gyr", "1/yr", "log sSFR, 1 Gyr"),
    "log_ssfr_100myr": Quantity("log sSFR, last 100 Myr", "1/yr", "log sSFR, 100 Myr"),
    "log_z_mw": Quantity("log Z, mass-weighted", "mass fraction", "log Z, mass-weighted"),
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


def description(name: str, percentile: str = "") -> str:
    """What a quantity of a posterior, or a percentile of it, is, with its unit, for the columns of files: ASCII."""
    if percentile:
        return f"{description(name)}, percentile {percentile}"
    if name in _WEIGHTS:
        return _WEIGHTS[name]
    quantity = QUANTITIES[name]
    unit = quantity.unit or (f"at {quantity.wavelength.replace('Å', 'Angstrom')}" if quantity.wavelength else "")
    return quantity.words + (f" [{unit}]" if unit else "")


QUANTITY_LABELS = {
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
