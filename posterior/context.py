"""What the flow is conditioned on: photometry, its errors and, where it is known, the redshift, as well-scaled numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sedcast.data.asinh import asinh_flux, asinh_flux_error, asinh_magnitude, asinh_magnitude_error, softening_nanomaggies
from sedcast.data.checks import as_floats
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.filters import check_band_names
from sedcast.data.units import as_nanomaggies

__all__ = ["ContextTransform", "TrainingDomain"]

_DISTANCE_PERCENTILE = 99.99
_LN_ERROR_UNMEASURED = float(np.log(0.05))


@dataclass(frozen=True)
class ContextTransform:
    """The map (flux, flux_ivar, zred) → context, (n, n_context) float32.

    Columns: the mean asinh magnitude over the bands; each band's magnitude minus that mean (if there are several
    bands); the natural logarithm of each band's asinh-magnitude error; zred and ln zred, if the redshift is known; with a mask,
    1 or 0 per band.

    - Magnitudes of one galaxy are nearly equal to each other beside their spread over galaxies, so the colours, which
      decide most parameters, would be a few per cent of a standardised magnitude. Without the mean they stand out.
    - Asinh magnitudes and their errors stay finite and smooth through zero and negative flux. The error in magnitudes is
      nearly constant for bright galaxies, where a calibration floor rules, while ln sigma in flux would repeat the magnitude.
    - Apparent magnitude and log-mass differ by a distance modulus, nearly linear in ln zred; colours shift with zred itself.
    - With a mask, a band that is not measured (flux_ivar 0 or NaN, or flux NaN) has 0 in its mask column, no part in the mean,
      a deviation of 0 from it, and an error of 0.05 mag, which is a common one: none of these columns then stands out.

    Attributes
    ----------
    bands : band names, the order of the flux columns.
    mask : whether bands may be unmeasured.
    redshift : whether the redshift is known, and part of the context.
    softening : of each band's asinh magnitudes, nanomaggies, see `NoiseModel`; the usual ones (`softening_nanomaggies`) if ().

    Raises
    ------
    ParameterError : if there is no band, or one is repeated; if a softening is not positive, or there is not one for each band.
    """

    bands: tuple[str, ...]
    mask: bool = False
    redshift: bool = True
    softening: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", check_band_names(tuple(self.bands)))
        softening = tuple(float(b) for b in (self.softening if len(self.softening) else softening_nanomaggies(self.bands)))
        if len(softening) != len(self.bands) or not all(0 < b < np.inf for b in softening):
            raise ParameterError(
                f"softening {softening}: expected a positive number, nanomaggies, for each of {' '.join(self.bands)}"
            )
        object.__setattr__(self, "softening", softening)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the context's columns."""
        deviations = [f"mag_{band}-mean" for band in self.bands] if len(self.bands) > 1 else []
        masks = [f"measured_{band}" for band in self.bands] if self.mask else []
        redshift = ["zred", "ln_zred"] if self.redshift else []
        return ("mag_mean", *deviations, *(f"ln_magerr_{band}" for band in self.bands), *redshift, *masks)

    @property
    def n_context(self) -> int:
        """Number of columns."""
        return len(self.names)

    def __call__(self, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray | None) -> np.ndarray:
        """The context of galaxies.

        Parameters
        ----------
        flux : (n, n_band) nanomaggies, or with units, see `sedcast.data.as_nanomaggies`.
        flux_ivar : (n, n_band) nanomaggies^-2, positive; with a mask also 0 or NaN for a band that is not measured.
        zred : (n,), positive; None if the redshift is not part of the context.

        Returns
        -------
        context : (n, n_context) float32.

        Raises
        ------
        ParameterError : for a wrong shape, a value that is not finite or not positive, or a row without any measurement; band
            and row are named.
        """
        flux, flux_ivar, zred = self.validate(flux, flux_ivar, zred)
        measured = flux_ivar > 0
        magnitude = asinh_magnitude(flux, self.softening)
        error = asinh_magnitude_error(flux, np.where(measured, flux_ivar, 1.0) ** -0.5, self.softening)
        mean = magnitude.mean(axis=1, where=measured, keepdims=True)
        deviations = [np.where(measured, magnitude - mean, 0.0)] if len(self.bands) > 1 else []
        ln_error = np.where(measured, np.log(error), _LN_ERROR_UNMEASURED)
        masks = [measured] if self.mask else []
        redshift = [zred[:, None], np.log(zred)[:, None]] if self.redshift else []
        columns = [mean, *deviations, ln_error, *redshift, *masks]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def observed(self, context: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The inverse of `__call__`: flux and flux_ivar (n, n_band), 0 where unmeasured, and zred (n,) if it is known."""
        values = dict(zip(self.names, np.asarray(context, dtype=float).T, strict=True))
        magnitude = np.stack([values["mag_mean"] + values.get(f"mag_{band}-mean", 0.0) for band in self.bands], axis=1)
        error = np.exp(np.stack([values[f"ln_magerr_{band}"] for band in self.bands], axis=1))
        flux = asinh_flux(magnitude, self.softening)
        flux_ivar = asinh_flux_error(flux, error, self.softening) ** -2.0
        if self.mask:
            measured = np.stack([values[f"measured_{band}"] for band in self.bands], axis=1) > 0.5
            flux, flux_ivar = np.where(measured, flux, 0.0), np.where(measured, flux_ivar, 0.0)
        return flux, flux_ivar, values.get("zred")

    def from_wider(self, wider: "ContextTransform") -> np.ndarray:
        """The matrix (wider.n_context, n_context) from contexts of more bands to these, where all these bands are measured.

        The mean magnitude and the deviations from it change with the bands that take part in it; all else is the same.

        Raises
        ------
        ParameterError : if `wider` lacks some of these columns, or has magnitudes of another softening in these bands; they are
            named.
        """
        absent = [name for name in self.names if name not in wider.names]
        if absent:
            raise ParameterError(f"the context of bands {' '.join(wider.bands)} lacks the columns {', '.join(absent)}")
        there = dict(zip(wider.bands, wider.softening, strict=True))
        for band, softening in zip(self.bands, self.softening, strict=True):
            if there[band] != softening:
                raise ParameterError(
                    f"the context of bands {' '.join(wider.bands)} has asinh magnitudes in {band} of a softening of "
                    f"{there[band]:.6g} nanomaggies in place of {softening:.6g}"
                )
        matrix = np.zeros((wider.n_context, self.n_context))
        matrix[[wider.names.index(name) for name in self.names], np.arange(self.n_context)] = 1
        if len(wider.bands) > 1:
            deviations = np.array([wider.names.index(f"mag_{band}-mean") for band in self.bands])
            share = 1 / len(self.bands)
            matrix[deviations, 0] += share
            if len(self.bands) > 1:
                matrix[np.ix_(deviations, 1 + np.arange(len(self.bands)))] -= share
        return matrix

    def validate(
        self, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The arguments as float64 arrays of shapes (n, n_band), (n, n_band), (n,), or an error as in `__call__`.

        With a mask, flux and flux_ivar are 0 where a band is not measured. A redshift that is not part of the context is NaN.
        """
        flux, flux_ivar = (np.atleast_2d(values) for values in as_nanomaggies(flux, flux_ivar))
        zred = self._checked_redshift(zred, len(flux))
        expected = (len(zred), len(self.bands))
        for name, values in (("flux", flux), ("flux_ivar", flux_ivar)):
            if values.shape != expected:
                raise ParameterError(
                    f"{name} has shape {values.shape}, expected {expected}: one row per "
                    f"{'redshift' if self.redshift else 'galaxy'}, one column per band {' '.join(self.bands)}"
                )
        if self.mask:
            flux, flux_ivar = self._without_unmeasured(flux, flux_ivar)
        else:
            advice = "leave out rows with an unmeasured band, or use an estimator trained with missing bands"
            self._refuse(~np.isfinite(flux), flux, "flux", f"must be finite; {advice}")
            good = np.isfinite(flux_ivar) & (flux_ivar > 0)
            self._refuse(~good, flux_ivar, "flux_ivar", f"must be finite and positive; {advice}")
        bad = np.flatnonzero(~(np.isfinite(zred) & (zred > 0)))
        if self.redshift and bad.size:
            raise ParameterError(f"zred[{bad[0]}]={zred[bad[0]]} ({bad.size} such rows): must be finite and positive")
        return flux, flux_ivar, zred

    def _checked_redshift(self, zred: np.ndarray | None, n: int) -> np.ndarray:
        if self.redshift:
            if zred is None:
                raise ParameterError("zred is None: this estimator does not infer the redshift, pass it")
            return np.atleast_1d(as_floats("zred", zred))
        if zred is not None:
            raise ParameterError("zred was given, but this estimator infers the redshift and would not use it: pass None")
        return np.full(n, np.nan)

    def _without_unmeasured(self, flux: np.ndarray, flux_ivar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._refuse(np.isinf(flux), flux, "flux", "must be finite, or NaN where unmeasured")
        wrong = (flux_ivar < 0) | np.isinf(flux_ivar)
        self._refuse(wrong, flux_ivar, "flux_ivar", "must be finite and not negative, 0 where unmeasured")
        measured = (flux_ivar > 0) & np.isfinite(flux)
        empty = np.flatnonzero(~measured.any(axis=1))
        if empty.size:
            raise ParameterError(
                f"row {empty[0]} has no measured band ({empty.size} such rows): expected flux_ivar > 0 and a finite flux in "
                f"one of {' '.join(self.bands)} at least; leave such rows out"
            )
        return np.where(measured, flux, 0.0), np.where(measured, flux_ivar, 0.0)

    def _refuse(self, wrong: np.ndarray, values: np.ndarray, name: str, rule: str) -> None:
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ParameterError(
                f"{name} of row {row}, band {self.bands[column]!r} is {values[row, column]} "
                f"({int(wrong.any(axis=1).sum())} such rows): {rule}"
            )


@dataclass(frozen=True)
class TrainingDomain:
    """What a training set covered, to tell which galaxies the flow has to extrapolate for.

    Attributes
    ----------
    context : the transform of the training set.
    zred : (2,) range that redshifts were drawn in.
    magnitude : (n_band, 2) range of asinh magnitude.
    ln_error : (n_band, 2) range of ln sigma, sigma in nanomaggies.
    centre : (n_context,) mean of the context.
    whitening : (n_context, n_context) matrix W with (c - centre) W of unit covariance on the training set.
    distance : 99.99th percentile of |(c - centre) W| on the training set.
    """

    context: ContextTransform
    zred: np.ndarray
    magnitude: np.ndarray
    ln_error: np.ndarray
    centre: np.ndarray
    whitening: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(
        cls,
        context: ContextTransform,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        zred: np.ndarray | None,
        *,
        zred_range: tuple[float, float],
    ) -> "TrainingDomain":
        """The domain of a training set whose redshifts were drawn in `zred_range`; the rest as in `ContextTransform`."""
        features = context(flux, flux_ivar, zred).astype(float)
        flux, flux_ivar, _ = context.validate(flux, flux_ivar, zred)
        centre = features.mean(axis=0)
        # The deviations sum to zero, so one direction has no spread: the pseudo-inverse leaves it out.
        variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(features, rowvar=False)))
        kept = variance > 1e-9 * variance[-1]
        whitening = np.where(kept, axes / np.sqrt(np.where(kept, variance, 1.0)), 0.0)
        distance = np.percentile(np.linalg.norm((features - centre) @ whitening, axis=1), _DISTANCE_PERCENTILE)
        measured = flux_ivar > 0
        magnitude, ln_error = _magnitude_and_ln_error(flux, flux_ivar, context.softening)
        ranges = [
            np.stack(
                [np.min(v, axis=0, where=measured, initial=np.inf), np.max(v, axis=0, where=measured, initial=-np.inf)], -1
            )
            for v in (magnitude, ln_error)
        ]
        return cls(context, np.array(zred_range), ranges[0], ranges[1], centre, whitening, np.asarray(distance))

    def flags(self, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray | None) -> np.ndarray:
        """Why the flow extrapolates, (n,) str, "" where it does not; arguments as in `ContextTransform`.

        Bands that are not measured are not tested.
        """
        centred = self.context(flux, flux_ivar, zred) - self.centre
        flux, flux_ivar, _ = self.context.validate(flux, flux_ivar, zred)
        reasons: list[list[str]] = [[] for _ in range(len(flux))]
        magnitude, ln_error = _magnitude_and_ln_error(flux, flux_ivar, self.context.softening)
        for column, band in enumerate(self.context.bands):
            tests = (
                (magnitude[:, column] < self.magnitude[column, 0], f"{band} magnitude brighter than the training range"),
                (magnitude[:, column] > self.magnitude[column, 1], f"{band} magnitude fainter than the training range"),
                (ln_error[:, column] < self.ln_error[column, 0], f"{band} error smaller than the training range"),
                (ln_error[:, column] > self.ln_error[column, 1], f"{band} error larger than the training range"),
            )
            _note(reasons, tests)
        _note(
            reasons, [(np.linalg.norm(centred @ self.whitening, axis=1) > self.distance, "photometry unlike the training set")]
        )
        return np.array(["; ".join(reason) for reason in reasons], dtype=str)

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays by prefixed name, for an artifact."""
        return {prefix + name: np.asarray(getattr(self, name)) for name in self._shapes(self.context)}

    @classmethod
    def from_arrays(cls, context: ContextTransform, arrays: Mapping[str, np.ndarray], prefix: str) -> "TrainingDomain":
        """The domain that `to_arrays` described.

        Raises
        ------
        ArtifactError : if an array is missing or of the wrong shape.
        """
        shapes = cls._shapes(context)
        for name, shape in shapes.items():
            if prefix + name not in arrays or np.shape(arrays[prefix + name]) != shape:
                raise ArtifactError(f"array {prefix + name!r} must have shape {shape}: the file is of another kind or version")
        return cls(context, **{name: np.asarray(arrays[prefix + name], dtype=float) for name in shapes})

    @staticmethod
    def _shapes(context: ContextTransform) -> dict[str, tuple[int, ...]]:
        n_band, n_context = len(context.bands), context.n_context
        return {
            "zred": (2,),
            "magnitude": (n_band, 2),
            "ln_error": (n_band, 2),
            "centre": (n_context,),
            "whitening": (n_context, n_context),
            "distance": (),
        }


def _magnitude_and_ln_error(
    flux: np.ndarray, flux_ivar: np.ndarray, softening: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Asinh magnitude and ln sigma, (n, n_band) each, NaN where unmeasured."""
    flux_ivar = np.where(flux_ivar > 0, flux_ivar, np.nan)
    return np.where(flux_ivar > 0, asinh_magnitude(flux, softening), np.nan), -0.5 * np.log(flux_ivar)


def _note(reasons: list[list[str]], tests: Sequence[tuple[np.ndarray, str]]) -> None:
    for test, reason in tests:
        for row in np.flatnonzero(test):
            reasons[row].append(reason)
