import numpy as np

from sedcast import plotting_prior


def test_the_command_draws_the_picture_and_prints_what_is_behind_it(tmp_path, capsys):
    assert plotting_prior.main(["-o", str(tmp_path / "prior.png"), "-n", "3000", "--zred", "0.1"]) == 0
    assert (tmp_path / "prior.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    ages = [float(value) for value in printed.splitlines()[3].split()[-5:]]
    assert ages == sorted(ages)
    assert ages[0] > 0
    assert ages[-1] < 13.0


def test_bursts_before_the_universe_do_not_count():
    model = plotting_prior.PriorModel.of(plotting_prior.PosteriorEstimator.default())
    columns = plotting_prior.prior_artefacts(model, 0.3, 2000, 1)
    # tburst is uniform to 13.27 Gyr, beyond the 10.3 Gyr or so that the Universe is old at z = 0.3.
    assert np.mean(columns["f_burst"] == 0) > 0.15
