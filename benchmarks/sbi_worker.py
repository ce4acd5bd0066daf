"""Trains the `sbi` package's MAF within a time budget, in whatever interpreter has it: ``PYTHON sbi_worker.py FOLDER``.

FOLDER holds ``pairs.npz`` (theta, context, held_theta, held_context) and ``settings.json``, and gets ``result.json``
and ``held_log_prob.npy``. Needs nothing of sedcast.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sbi import __version__ as sbi_version
from sbi.inference import NPE
from sbi.neural_nets import posterior_nn

_ROWS_PER_CALL = 4096
_SAMPLING_SECONDS = 5.0


class TimedNPE(NPE):
    """NPE that stops after the first epoch that ends beyond its budget, with the best weights, as it does when converged."""

    stop_at = float("inf")

    def _converged(self, epoch: int, stop_after_epochs: int) -> bool:
        converged = super()._converged(epoch, stop_after_epochs)
        if epoch:
            print(f"  sbi: epoch {epoch}, validation {self._val_loss:.3f}", file=sys.stderr, flush=True)
        if not converged and time.monotonic() >= self.stop_at:
            self._neural_net.load_state_dict(self._best_model_state_dict)
            return True
        return converged


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    with np.load(folder / "pairs.npz") as arrays:
        theta, context, held_theta, held_context = (
            torch.from_numpy(arrays[name]) for name in ("theta", "context", "held_theta", "held_context")
        )
    build = posterior_nn(
        "maf",
        hidden_features=settings["hidden"],
        num_transforms=settings["n_blocks"],
        num_blocks=settings["blocks_per_transform"],
    )
    inference = TimedNPE(density_estimator=build, show_progress_bars=False)
    inference.append_simulations(theta, context)
    cpu, started = os.times(), time.monotonic()
    inference.stop_at = started + 60 * settings["minutes"]
    network = inference.train(
        training_batch_size=settings["batch"],
        learning_rate=settings["learning_rate"],
        validation_fraction=settings["validation_fraction"],
    )
    seconds, cpu_after = time.monotonic() - started, os.times()
    network.eval()
    with torch.no_grad():
        log_prob = [
            network.log_prob(
                held_theta[start : start + _ROWS_PER_CALL][None], condition=held_context[start : start + _ROWS_PER_CALL]
            )
            for start in range(0, len(held_theta), _ROWS_PER_CALL)
        ]
        np.save(folder / "held_log_prob.npy", torch.cat([part.reshape(-1) for part in log_prob]).numpy())
        galaxies, n_calls = held_context[: settings["sampling_galaxies"]], 0
        network.sample((settings["sampling_samples"],), condition=galaxies)
        begun = time.monotonic()
        while time.monotonic() - begun < _SAMPLING_SECONDS:
            network.sample((settings["sampling_samples"],), condition=galaxies)
            n_calls += 1
        sampling = (time.monotonic() - begun) / n_calls
    epochs = len(inference.summary["validation_loss"])
    n_train = len(theta) - int(settings["validation_fraction"] * len(theta))
    result = {
        "epochs": epochs,
        "seconds": seconds,
        "cpu_seconds": cpu_after.user + cpu_after.system - cpu.user - cpu.system,
        "galaxies_per_s": n_train * epochs / seconds,
        "n_weights": sum(weight.numel() for weight in network.parameters()),
        "samples_per_s": len(galaxies) * settings["sampling_samples"] / sampling,
        "validation_nll": [float(value) for value in inference.summary["validation_loss"]],
        "versions": {"sbi": sbi_version, "torch": torch.__version__},
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
