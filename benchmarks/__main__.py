"""The benchmarks' command line: tables on standard error, one JSON object as the last line of standard output."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import as_json, machine, note, on_cores, positive, table
from sedcast.data.errors import ParameterError, SedcastError
from sedcast.data.threads import usable_cores

BENCHMARKS = {
    "sps": ("benchmarks.sps", "the direct model's spectra, and FSPS itself where SPS_HOME is set"),
    "coverage": ("benchmarks.coverage", "colours and best fits of prior draws beside real galaxies"),
    "emulator": ("benchmarks.emulator", "photometry and spectra from the emulator, in batches and one by one"),
    "emulator-accuracy": ("benchmarks.emulator_accuracy", "the emulator's errors on fresh prior draws"),
    "emulator-variants": ("benchmarks.emulator_variants", "what each part of the emulator's design is worth"),
    "structure": ("benchmarks.structure", "a plain nine-input emulator beside the composite one, on unseen FSPS spectra"),
    "published": ("benchmarks.published", "the direct model's spectra beside those of the published PROVABGS emulator"),
    "simulate": ("benchmarks.simulate", "mass simulation of noisy galaxies into HDF5"),
    "posterior": ("benchmarks.posterior", "sampling and training the flow, and inferring a catalogue"),
    "flow-variants": ("benchmarks.flow_variants", "what each part of the flow's design and training is worth"),
    "sbi-comparison": ("benchmarks.sbi_comparison", "training and sampling beside the sbi package's flow of similar size"),
    "importance": ("benchmarks.importance", "efficiency and speed of importance refinement on real galaxies"),
    "mcmc": ("benchmarks.mcmc", "emcee and zeus on real galaxies"),
    "scale": ("benchmarks.scale", "a million rows in constant memory, two processes beside one, 10^9 rows on paper"),
    "power": ("benchmarks.power", "which faults of a posterior the calibration checks find, and how often"),
    "photoz": ("benchmarks.photoz", "inferred redshifts beside the spectroscopic ones of real galaxies"),
    "faults": ("benchmarks.faults", "commands killed and begun again, full disks, spoilt files"),
    "galex": ("benchmarks.galex", "what FUV and NUV add to posteriors of real galaxies and of mocks"),
    "explorer": ("benchmarks.explorer", "from a change on the explorer's page to the picture drawn"),
    "gallery": ("benchmarks.gallery", "the pictures of the documents' gallery"),
    "outliers": ("benchmarks.outliers", "flagged shares of fresh mocks, planted outliers and real galaxies"),
    "zero-points": ("benchmarks.zero_points", "offsets of bands that are planted in mocks and in real galaxies, and found"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark; returns the exit status, 2 for an error of the user's."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    names = "\n".join(f"  {name:<18} {text}" for name, (_, text) in BENCHMARKS.items())
    front = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks:\n{names}\n\nNAME --help shows the options of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    front.add_argument("name", metavar="NAME", choices=BENCHMARKS, help="one of those below")
    name = front.parse_args(arguments[:1]).name
    path, text = BENCHMARKS[name]
    # Only the benchmark asked for is imported, so that one of them may need what another does not.
    benchmark = importlib.import_module(path)
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}", description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    n_cores = usable_cores()
    parser.add_argument("--threads", type=positive, default=min(2, n_cores), help="cores that the process may use")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON object to a file as well")
    benchmark.add_arguments(parser)
    options = parser.parse_args(arguments[1:])
    try:
        if options.threads > n_cores:
            raise ParameterError(f"--threads={options.threads}: this process may use {n_cores} cores")
        note(f"{name}: {text}, on {options.threads} of {n_cores} cores")
        conditions = machine(options.threads)
        with on_cores(options.threads):
            figures = {"benchmark": name} | benchmark.run(options) | conditions
    except SedcastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table(("figure", "value"), [(key, value) for key, value in figures.items() if not isinstance(value, dict | list)])
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(as_json(figures) + "\n", encoding="utf-8")
    print(as_json(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
