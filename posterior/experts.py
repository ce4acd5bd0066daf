"""Whether dedicated posteriors can serve some of the galaxies of one for any subset of bands."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ConfigError
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.prior import Prior
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.posterior.context import ContextTransform

if TYPE_CHECKING:
    from sedcast.posterior.estimator import PosteriorEstimator

__all__ = ["check_experts"]


def check_experts(
    experts: "Sequence[PosteriorEstimator]",
    *,
    name: str,
    context: ContextTransform,
    zred_range: tuple[float, float],
    prior: Prior,
    cosmology: Cosmology,
    bases: SFHBases,
    redshift_prior: RedshiftPrior | None,
    emulator: str | None,
    own_files: Mapping[str, str],
) -> None:
    """Refuse experts that cannot serve galaxies of an estimator of this name, context, redshift range and model.

    Raises
    ------
    ConfigError : if the estimator does not serve any subset of its bands, an expert does, has others (by name, or by the digest
        of a user's own curve, `SimulationConfig.own_files`), or those of another expert; if their
        softenings differ, they are of different models, infer redshifts by different priors, or an expert's redshift range is
        smaller.
    """
    served: dict[frozenset[str], str] = {}
    for expert in experts:
        if not context.mask or expert.context.mask or not set(expert.bands) <= set(context.bands):
            raise ConfigError(
                f"expert: {expert.name} for {' '.join(expert.bands)} cannot serve {name} for {' '.join(context.bands)}: "
                "the one must need every one of its bands, the other any subset of these or more"
            )
        if other := served.get(frozenset(expert.bands)):
            raise ConfigError(f"experts: {other} and {expert.name} are for the same bands: choose one")
        served[frozenset(expert.bands)] = expert.name
        curves = expert.card.get("own_files") or {}
        if other_curve := [band for band in expert.bands if curves.get(band) != own_files.get(band)]:
            raise ConfigError(
                f"expert: {expert.name} was trained with another curve of {other_curve[0]} than {name}: take the same"
            )
        there = dict(zip(context.bands, context.softening, strict=True))
        if softened := [band for band, b in zip(expert.bands, expert.context.softening, strict=True) if there[band] != b]:
            raise ConfigError(
                f"expert: {expert.name} has asinh magnitudes of another softening in {softened[0]} than {name}, from another "
                "noise model: train both with one, or learn one with the softening of the other (NoiseModel.from_catalog)"
            )
        (low, high), (least, most) = zred_range, expert.zred_range
        # A redshift that is inferred is a coordinate of the flow by its prior.
        same = (prior, cosmology, redshift_prior) == (expert.prior, expert.cosmology, expert.redshift_prior)
        same &= bases.same_histories(expert.bases)
        if emulator and expert.emulator_digest and emulator != expert.emulator_digest:
            raise ConfigError(
                f"expert: {expert.name} was trained with another emulator of spectra than {name}, perhaps on other stars: "
                "train both with the same"
            )
        if not same or low < least or high > most:
            raise ConfigError(
                f"expert: {expert.name} was trained with another prior, cosmology, bases or redshift range than {name}, or "
                "only one of them infers the redshift, or by another prior: train both with the same"
            )
