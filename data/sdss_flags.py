"""SDSS's photometric flags: which detections have clean photometry.

Bits are those of the 64-bit word of the Catalog Archive Server (`PhotoFlags` of its schema, unchanged from DR7 on). The
imaging catalogues (photoObj, tsObj) hold the same bits as two words of 32, of which the second begins at bit 32.
"""

import numpy as np

from sedcast.data.errors import ParameterError

__all__ = ["SDSS_FLAG_BITS", "sdss_clean", "sdss_flag_word"]

SDSS_FLAG_BITS = {
    "PEAKCENTER": 5,
    "NOPROFILE": 7,
    "CR": 12,
    "SATURATED": 18,
    "NOTCHECKED": 19,
    "BINNED1": 28,
    "BAD_COUNTS_ERROR": 40,
    "INTERP_CENTER": 44,
    "PSF_FLUX_INTERP": 47,
}
"""Bit of each flag in the 64-bit word; CR is COSMIC_RAY in the server's list."""

_REFUSED = ("PEAKCENTER", "NOTCHECKED", "PSF_FLUX_INTERP", "BAD_COUNTS_ERROR", "SATURATED", "NOPROFILE")


def sdss_flag_word(flags: np.ndarray, flags2: np.ndarray) -> np.ndarray:
    """The 64-bit words of pairs of 32-bit words, signed or not; shapes as given."""
    low, high = (np.asarray(word).astype(np.int64) & 0xFFFFFFFF for word in (flags, flags2))
    return np.asarray(low | (high << 32))


def sdss_clean(flags: np.ndarray) -> np.ndarray:
    """Whether photometry is clean by its flags.

    BINNED1 is set; PEAKCENTER, NOTCHECKED, PSF_FLUX_INTERP, BAD_COUNTS_ERROR, SATURATED and NOPROFILE are not; nor are
    INTERP_CENTER and CR both.

    Parameters
    ----------
    flags : (...) 64-bit words of integers, of one band (the server's ``flags_r``, say) or of all (``flags``); of two words of
        32 bits, `sdss_flag_word` makes one.

    Returns
    -------
    clean : (...) bool.

    Raises
    ------
    ParameterError : if the flags are not integers: a word that went through float64 has lost bits.
    """
    words = np.asarray(flags)
    if words.dtype.kind not in "iu":
        raise ParameterError(
            f"flags are {words.dtype}, expected integers: floats cannot hold 64 bits, read the column as int64"
        )
    words = words.astype(np.int64)

    def is_set(name: str) -> np.ndarray:
        return np.asarray((words >> SDSS_FLAG_BITS[name]) & 1 == 1)

    refused = is_set("INTERP_CENTER") & is_set("CR")
    for name in _REFUSED:
        refused |= is_set(name)
    return np.asarray(is_set("BINNED1") & ~refused)
