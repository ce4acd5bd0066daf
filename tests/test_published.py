"""Published emulators: files read without running them, spectra equal to TensorFlow's, and files that Speculator can read."""

import collections
import os
import pickle
import pickletools
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.data.tensorflow import import_tensorflow
from sedcast.emulator.log_spectrum import LogSpectrumEmulator, LogSpectrumSegment
from sedcast.emulator.network import SpeculatorNetwork
from sedcast.emulator.prior import Prior, sfh_sticks
from sedcast.emulator.published import (
    PROSPECTOR_ALPHA_PARAMETERS,
    load_speculator,
    read_speculator,
    write_speculator,
)
from sedcast.emulator.published_provabgs import PROVABGS_PARAMETERS, PublishedProvabgsModel
from sedcast.emulator.safe_pickle import read_array_pickle
from sedcast.emulator.sps import SPSModel

ARRAYS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.float64(2.5)]


def make_segment(low: float = 2000.0, high: float = 3000.0, *, n_input: int = 9, seed: int = 3) -> LogSpectrumSegment:
    rng = np.random.default_rng(seed)
    widths = [n_input, 16, 16, 5]

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    network = SpeculatorNetwork(
        weights=tuple(draw(a, b) for a, b in pairwise(widths)),
        biases=tuple(draw(b) for b in widths[1:]),
        alphas=tuple(1 + draw(b) for b in widths[1:-1]),
        betas=tuple(draw(b) for b in widths[1:-1]),
        input_shift=draw(n_input),
        input_scale=np.linspace(0.5, 2, n_input, dtype=np.float32),
        output_shift=draw(5),
        output_scale=np.geomspace(10, 0.1, 5, dtype=np.float32),
    )
    n_wave = 40
    return LogSpectrumSegment(network, draw(5, n_wave), draw(n_wave) - 10, 1 + draw(n_wave), np.linspace(low, high, n_wave))


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.fixture
def pickled(tmp_path: Path) -> Any:
    def write(content: Any, protocol: int = 3) -> Path:
        path = tmp_path / "file.pkl"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
        return path

    return write


# The reader.


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_lists_of_arrays_are_read(pickled: Any, protocol: int) -> None:
    big_endian = np.arange(3, dtype=">f4")
    shared = [1, "name", (), None, True, -5, 2**70, 1.5, b"raw", ("a", 2), ("a", 2, 3, 4)]
    content = [*ARRAYS, big_endian, shared, shared]
    result = read_array_pickle(pickled(content, protocol))
    for got, expected in zip(result[:4], content[:4], strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.asarray(expected).dtype.newbyteorder("=")
    assert result[4] == shared
    assert result[4] is result[5]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: [[np.zeros(2), x]] * 18, lambda x: (x, x)])
def test_nothing_that_a_pickle_names_is_run(pickled: Any, tmp_path: Path, protocol: int, wrap: Any) -> None:
    trace = tmp_path / "trace"
    for evil in (
        Calls(os.system, f"touch {trace}"),
        Calls(eval, f"open({str(trace)!r}, 'w')"),
        Calls(np.load, str(trace)),
        Calls(collections.OrderedDict),
    ):
        path = pickled(wrap(evil), protocol)
        with pytest.raises(ArtifactError, match=r"nothing in it was run|not a complete pickle"):
            read_speculator(path)
        with pytest.raises(ArtifactError):
            read_array_pickle(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {trace}"), protocol))
    assert trace.exists(), "the attack of this test does not attack"


RECONSTRUCT = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n"
DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00%\x89\x88\x87R"
NEW_ARRAY = RECONSTRUCT + b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a complete pickle"),
        (b"hello, this is text", "not a complete pickle|refused"),
        (b"\x80\x03.", "stack is empty"),
        (b"\x80\x03]q\x00", "not a complete pickle"),
        (b"\x80\x03K\x01e.", "mark"),
        (b"\x80\x03K\x01K\x02a.", "appends to a int"),
        (b"\x80\x03h\x07.", "recalls entry 7"),
        (b"\x80\x03}.", "EMPTY_DICT"),
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85\x81.", "os.system"),
        (b"(X\x02\x00\x00\x00lsios\nsystem\n.", "INST"),
        (b"\x80\x03X\x01\x00\x00\x00xQ.", "BINPERSID"),
        (b"\x80\x04]]\x93.", "other than strings"),
        (b"\x80\x03cnumpy\nload\nX\x01\x00\x00\x00x\x85R.", "numpy.load"),
        (b"\x80\x03cnumpy\nndarray\nJ\x00\x00\x00\x7f\x85R.", "array_type"),
        (RECONSTRUCT + b"cnumpy\ndtype\nK\x00\x85C\x01b\x87R.", "calls reconstruct"),
        (NEW_ARRAY + b".", "before giving its content"),
        (NEW_ARRAY + b"}b.", "EMPTY_DICT"),
        (NEW_ARRAY + b"Nb.", "sets a state"),
        (b"\x80\x03" + DTYPE.replace(b"%", b"O8") + b".", "calls dtype"),
        (b"\x80\x03cnumpy\nndarray\nX\x01\x00\x00\x00xK\x01\x86b.", "sets a state"),
    ],
)
def test_what_is_no_list_of_arrays_is_refused(pickled: Any, data: bytes, reason: str) -> None:
    with pytest.raises(ArtifactError, match=reason):
        read_array_pickle(pickled(data))


def array_bytes(shape: bytes, raw: bytes) -> bytes:
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4K\x00K\x01\x87R"
    return NEW_ARRAY + b"(K\x01" + shape + dtype + b"\x89C" + bytes([len(raw)]) + raw + b"tb."


def test_an_array_has_as_many_bytes_as_its_shape_says(pickled: Any) -> None:
    np.testing.assert_array_equal(read_array_pickle(pickled(array_bytes(b"K\x02\x85", b"\0" * 8))), [0, 0])
    for shape in (b"K\x03\x85", b"J\xff\xff\xff\x7f\x85", b"J\xff\xff\xff\xff\x85", b"\x8a\x09" + b"\xff" * 8 + b"\x00\x85"):
        with pytest.raises(ArtifactError, match=r"has 8 bytes|natural numbers"):
            read_array_pickle(pickled(array_bytes(shape, b"\0" * 8)))


def test_memory_is_bounded(pickled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    laughs = [b"\x80\x03]q\x00", *(b"](" + b"h%c" % k * 9 + b"eq%c" % (k + 1) for k in range(60)), b"."]
    nested = b"\x80\x03" + b"]" * 50_000 + b"a" * 49_999 + b"."
    objects = np.array([[1], "x"], dtype=object)
    for content in (b"".join(laughs), nested, objects, b"\x80\x03" + b"N" * 200_000 + b"."):
        with pytest.raises(ArtifactError):
            read_speculator(pickled(content))
    one = np.zeros(100)
    monkeypatch.setattr("sedcast.emulator.safe_pickle.MAX_FILE_BYTES", 1500)
    assert len(read_array_pickle(pickled([one]))) == 1
    with pytest.raises(ArtifactError, match="larger than 1500 bytes"):
        read_array_pickle(pickled([one, one + 1]))
    # The same bytes twice, as two arrays.
    raw = b"B" + (800).to_bytes(4, "little") + bytes(800) + b"q\x00"
    call = b"cnumpy.core.numeric\n_frombuffer\n(h\x00" + DTYPE.replace(b"%", b"f8") + b"Kd\x85X\x01\x00\x00\x00CtR"
    twice = b"\x80\x03(" + raw + call + call + b"t."
    with pytest.raises(ArtifactError, match="arrays would take more"):
        read_array_pickle(pickled(twice))


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    write_speculator(path, make_segment())
    data = path.read_bytes()
    for end in (0, 1, 2, 100, len(data) // 2, len(data) - 100, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(ArtifactError, match=r"net\.pkl"):
            read_speculator(path)
    with pytest.raises(ArtifactError, match="cannot read"):
        read_speculator(tmp_path / "none.pkl")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_damaged_opcodes_are_read_or_refused_and_nothing_else(pickled: Any, rng: np.random.Generator, protocol: int) -> None:
    path = pickled(b"")
    write_speculator(path, make_segment(), overwrite=True)
    data = pickle.dumps(pickle.loads(path.read_bytes()), protocol)
    starts = [position for _, _, position in pickletools.genops(data)]
    codes = [ord(opcode.code) for opcode in pickletools.opcodes]
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.choice(starts, 2):
            damaged[place + rng.integers(2) if place + 1 < len(data) else place] = rng.choice(codes)
        path.write_bytes(damaged)
        try:
            read_speculator(path)
        except ArtifactError:
            refused += 1
    assert refused > 200


# Speculator's format.


def test_what_is_written_is_read_back(tmp_path: Path, rng: np.random.Generator) -> None:
    parts = [make_segment(3000.5, 4000, seed=4), make_segment()]
    paths = [tmp_path / f"part{k}.pkl" for k in range(2)]
    for path, part in zip(paths, parts, strict=True):
        write_speculator(path, part)
    emulator = load_speculator(paths)
    inputs = rng.normal(0, 1, (20, 9))
    expected = np.hstack([part.log_spectra(inputs) for part in parts[::-1]])
    np.testing.assert_allclose(emulator.log_spectra(inputs), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(emulator(inputs), np.exp(expected), rtol=1e-5)
    np.testing.assert_array_equal(emulator.wave_rest, np.concatenate([part.wave_rest for part in parts[::-1]]))
    assert emulator.parameter_names[0] == "input1"


def test_the_file_has_speculators_order_and_plain_arrays(tmp_path: Path) -> None:
    segment = make_segment()
    path = tmp_path / "net.pkl"
    write_speculator(path, segment)
    names = {argument for opcode, argument, _ in pickletools.genops(path.read_bytes()) if opcode.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    parts = pickle.loads(path.read_bytes())
    network = segment.network
    lists = (network.weights, network.biases, network.alphas, network.betas)
    for got, expected in zip(parts[:4], lists, strict=True):
        assert type(got) is list
        assert all(type(a) is np.ndarray and (a == b).all() for a, b in zip(got, expected, strict=True))
    vectors = (
        network.input_shift,
        network.input_scale,
        network.output_shift,
        network.output_scale,
        segment.shift,
        segment.scale,
    )
    for got, expected in zip(parts[4:11], (*vectors, segment.components), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(parts[13], segment.wave_rest)
    assert parts[11:13] + parts[14:] == [9, 40, 5, [16, 16], 3, [9, 16, 16, 5]]


def speculator_in_tensorflow(path: Path, inputs: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """ln L as a TensorFlow graph computes it from an unpickled file, in float32 as published or in float64."""
    tf, _ = import_tensorflow()
    parts = read_array_pickle(path)
    weights, biases, alphas, betas = ([tf.constant(array.astype(dtype)) for array in part] for part in parts[:4])
    x_shift, x_scale, pca_shift, pca_scale, shift, scale, matrix = (tf.constant(part.astype(dtype)) for part in parts[4:11])

    @tf.function
    def log_spectrum(x: Any) -> Any:
        x = (x - x_shift) / x_scale
        for w, b, alpha, beta in zip(weights, biases, alphas, betas, strict=False):
            x = tf.matmul(x, w) + b
            x = (beta + tf.sigmoid(alpha * x) * (1.0 - beta)) * x
        x = (tf.matmul(x, weights[-1]) + biases[-1]) * pca_scale + pca_shift
        return tf.matmul(x, matrix) * scale + shift

    return np.asarray(log_spectrum(tf.constant(inputs.astype(dtype))))


def test_numpy_equals_tensorflow(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "net.pkl"
    write_speculator(path, make_segment())
    inputs = rng.normal(0, 1, (200, 9)).astype(np.float32)
    np.testing.assert_allclose(
        read_speculator(path).log_spectra(inputs), speculator_in_tensorflow(path, inputs), rtol=0, atol=1e-5
    )


def change(parts: list[Any], index: int, value: Any) -> list[Any]:
    return [*parts[:index], value, *parts[index + 1 :]]


def test_files_with_wrong_content_are_refused(tmp_path: Path, pickled: Any) -> None:
    path = tmp_path / "net.pkl"
    write_speculator(path, make_segment())
    parts = read_array_pickle(path)
    bad_weights = [parts[0][0][:, :-1], *parts[0][1:]]
    with_nan = parts[4].copy()
    with_nan[2] = np.nan
    cases = [
        ([], "0 entries"),
        ("weights", "a str"),
        (parts[:-1], "17 entries"),
        (change(parts, 0, bad_weights), "do not fit together"),
        (change(parts, 0, parts[0][:-1]), "do not fit together"),
        (change(parts, 0, parts[1]), "weights must be 2-D"),
        (change(parts, 0, []), "no emulator"),
        (change(parts, 2, parts[2][:-1]), "no emulator"),
        (change(parts, 4, with_nan), "finite"),
        (change(parts, 5, np.zeros(9, np.float32)), "input_scale"),
        (change(parts, 8, parts[8][:-1]), "components, shift and scale"),
        (change(parts, 10, parts[10].T), "components, shift and scale"),
        (change(parts, 10, parts[10].astype(int)), "real numbers"),
        (change(parts, 11, 8), "states sizes"),
        (change(parts, 11, "nine"), "no emulator"),
        (change(parts, 13, parts[13][::-1]), "increase"),
        (change(parts, 17, [9, 16, 5]), "states sizes"),
    ]
    for content, reason in cases:
        with pytest.raises(ArtifactError, match=reason):
            read_speculator(pickled(content))


def test_segments_must_go_together(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.pkl", "overlapping.pkl", "other.pkl")]
    for path, part in zip(paths, (make_segment(), make_segment(2500, 3500), make_segment(4000, 5000, n_input=4)), strict=True):
        write_speculator(path, part)
    with pytest.raises(ArtifactError, match="overlap at 2500 Å"):
        load_speculator(paths[:2])
    with pytest.raises(ArtifactError, match="same number of inputs"):
        load_speculator(paths[::2])
    with pytest.raises(ArtifactError, match="at least one"):
        load_speculator([])
    with pytest.raises(ArtifactError, match="2 names"):
        load_speculator(paths[0], parameter_names=("a", "b"))


def test_bad_inputs_are_refused() -> None:
    emulator = LogSpectrumEmulator((make_segment(),), PROVABGS_PARAMETERS)
    with pytest.raises(ParameterError, match=r"\(n, 9\)"):
        emulator(np.zeros(9))
    inputs = np.zeros((3, 9))
    inputs[1, 4] = np.nan
    with pytest.raises(ParameterError, match=r"inputs\[1\].*gamma2_zh=nan"):
        emulator(inputs)
    inputs[1, 4] = 1e30
    with pytest.raises(ParameterError, match=r"inputs\[1\].*far outside"):
        emulator(inputs)
    assert emulator(np.zeros((0, 9))).shape == (0, 40)


# The PROVABGS model, on a stand-in for the published network.


@pytest.fixture
def library() -> SSPLibrary:
    flux = np.random.default_rng(5).uniform(0.1, 1, (2, 6, 40))
    log_age = np.array([6.0, 6.8, 7.2, 8.5, 9.5, 10.1])
    return SSPLibrary(np.linspace(2000, 3000, 40), log_age, np.array([-4.0, -1.5]), flux, name="toy")


def test_the_model_gives_the_network_its_inputs() -> None:
    emulator = LogSpectrumEmulator((make_segment(),), PROVABGS_PARAMETERS)
    model = PublishedProvabgsModel(emulator, SFHBases.default())
    theta = Prior(fburst=(0, 1)).sample(10, 2)
    theta[:, 5] = 0
    zred = np.linspace(0.01, 0.5, 10)
    t_age = model.cosmology.age_gyr(zred)
    # The published code weighs the bases as they are: a basis that forms half its mass in time needs twice the weight.
    fine = np.linspace(0, t_age, 20_001)
    formed = [np.trapezoid(np.interp(fine, model.bases.t_lookback_gyr, sfh), fine, axis=0) for sfh in model.bases.sfh]
    beta = theta[:, 1:5] / np.transpose(formed)
    beta /= beta.sum(axis=1, keepdims=True)
    u1 = 1 - beta[:, 0]
    u2 = 1 - beta[:, 1] / u1
    u3 = 1 - beta[:, 2] / (u1 * u2)
    inputs = np.column_stack([u1, u2, u3, theta[:, 7:12], t_age])
    expected = 10 ** theta[:, :1] * np.exp(emulator.segments[0].log_spectra(inputs))
    np.testing.assert_allclose(model.spectra(theta, zred), expected, rtol=1e-5)


@pytest.mark.parametrize("logged", [(), ("gamma1_zh", "gamma2_zh")])
def test_part_of_the_wavelengths_is_the_part_of_the_whole(library: SSPLibrary, logged: tuple[str, ...]) -> None:
    segments = (make_segment(2000, 2400), make_segment(2410, 2800, seed=4), make_segment(2810, 3000, seed=5))
    emulator = LogSpectrumEmulator(segments, PROVABGS_PARAMETERS, logged)
    model = PublishedProvabgsModel(emulator, SFHBases.default(), burst_library=library)
    theta = Prior().sample(4, 9)
    whole = model.spectra(theta, 0.1)
    for used in (slice(50, 70), slice(30, 100), slice(0, 120), slice(80, 120)):
        part = model.restricted(used)
        np.testing.assert_array_equal(part.wave_rest, model.wave_rest[used])
        np.testing.assert_allclose(part.spectra(theta, 0.1), whole[:, used], rtol=2e-5)
    assert len(model.restricted(slice(50, 70)).emulator.segments) == 1


def test_the_burst_comes_from_a_library(library: SSPLibrary) -> None:
    emulator = LogSpectrumEmulator((make_segment(),), PROVABGS_PARAMETERS)
    theta = Prior().sample(6, 9)
    theta[:, 6] = [0.01, 0.02, 0.5, 3, 11, 13.25]
    smooth = theta.copy()
    smooth[:, 5] = 0
    with pytest.raises(ParameterError, match="no burst"):
        PublishedProvabgsModel(emulator, SFHBases.default()).spectra(theta, 0.1)
    model = PublishedProvabgsModel(emulator, SFHBases.default(), burst_library=library)
    spectra, without = model.spectra(theta, 0.1), model.spectra(smooth, 0.1)
    np.testing.assert_array_equal(spectra[-1], without[-1])  # a burst before the Universe

    # The direct model with all its mass in the burst; the library has the emulator's wavelengths.
    burst_only = theta.copy()
    burst_only[:, 5] = 1
    direct = SPSModel(library, SFHBases.default(), t_birth_cloud_gyr=0.01).spectra(burst_only, 0.1)
    expected = theta[:, 5:6] * direct + (1 - theta[:, 5:6]) * without
    np.testing.assert_allclose(spectra[:-1], expected[:-1], rtol=2e-5)

    finer = SSPLibrary(
        *(np.linspace(1990, 3010, 409), library.log_age, library.log_z),
        np.array([[np.interp(np.linspace(1990, 3010, 409), library.wave_rest, s) for s in row] for row in library.flux]),
        name="finer",
    )
    resampled = PublishedProvabgsModel(emulator, SFHBases.default(), burst_library=finer)
    np.testing.assert_allclose(resampled.spectra(theta, 0.1), spectra, rtol=0.1)


def test_the_model_refuses_what_it_cannot_serve(library: SSPLibrary, tmp_path: Path) -> None:
    emulator = LogSpectrumEmulator((make_segment(),), PROVABGS_PARAMETERS)
    model = PublishedProvabgsModel(emulator, SFHBases.default())
    theta = Prior().sample(2, 1)
    theta[:, 5] = 0
    with pytest.raises(ParameterError, match=r"zred=0\.7"):
        model.spectra(theta, 0.7)
    with pytest.raises(ParameterError, match="zred=nan"):
        model.spectra(theta, np.array([0.1, np.nan]))
    theta[1, 9] = 5
    with pytest.raises(ParameterError, match="dust1"):
        model.spectra(theta, 0.1)
    with pytest.raises(ParameterError, match="burst_library covers"):
        PublishedProvabgsModel(emulator, SFHBases.default(), burst_library=library.trimmed(2100, 3100))
    with pytest.raises(ParameterError, match="4 inputs"):
        PublishedProvabgsModel(LogSpectrumEmulator((make_segment(n_input=4),)), SFHBases.default())
    with pytest.raises(ArtifactError, match="no files"):
        PublishedProvabgsModel.load(tmp_path)


# The published files themselves.


def in_double(segment: LogSpectrumSegment) -> LogSpectrumSegment:
    arrays = {name: np.asarray(array, dtype=np.float64) for name, array in segment.network.to_arrays("").items()}
    names = ("components", "shift", "scale")
    return replace(
        segment,
        network=SpeculatorNetwork.from_arrays(arrays, ""),
        **{name: getattr(segment, name).astype(np.float64) for name in names},
    )


@pytest.mark.published
def test_published_files_equal_tensorflow_and_survive_a_rewrite(published_dir: Path, tmp_path: Path) -> None:
    paths = sorted(published_dir.glob("*/*.pkl"))
    assert len(paths) == 7
    for path in paths:
        segment = read_speculator(path)
        network = segment.network
        if path.name.startswith("nmf"):
            theta = Prior().sample(64, 8)
            inputs = np.column_stack([sfh_sticks(theta[:, 1:5]), theta[:, 7:12], np.linspace(11, 13.5, 64)])
        else:
            unit = np.random.default_rng(8).uniform(-1.5, 1.5, (64, network.n_input))
            inputs = network.input_shift + network.input_scale * unit
        inputs = inputs.astype(np.float32)
        log_spectra, in_tensorflow = segment.log_spectra(inputs), speculator_in_tensorflow(path, inputs)
        exact = speculator_in_tensorflow(path, inputs, np.float64)
        np.testing.assert_allclose(in_double(segment).log_spectra(inputs), exact, rtol=0, atol=1e-10)
        # In float32 either program rounds as its machine sums, ultraviolet spectra by more than 1e-5: neither is the truth.
        errors, errors_in_tensorflow = log_spectra - exact, in_tensorflow - exact
        assert np.sqrt(np.mean(errors**2)) < 1.5 * np.sqrt(np.mean(errors_in_tensorflow**2))
        assert max(np.abs(errors).max(), np.abs(errors_in_tensorflow).max()) < 6e-5
        if np.abs(errors_in_tensorflow).max() < 1e-5:
            np.testing.assert_allclose(log_spectra, in_tensorflow, rtol=0, atol=1e-5)
        copy = tmp_path / path.name
        write_speculator(copy, segment)
        np.testing.assert_array_equal(read_speculator(copy).log_spectra(inputs), log_spectra)


@pytest.mark.published
def test_published_provabgs_spectra(published_dir: Path) -> None:
    model = PublishedProvabgsModel.load(published_dir / "provabgs", burst_library=SSPLibrary.popstar())
    assert model.wave_rest.size == 4899
    assert tuple(model.wave_rest[[0, -1]]) == (2005.0, 59900.0)
    theta = Prior().sample(50, 6)
    theta[:, 0] = 10.0
    spectra = model.spectra(theta, 0.1)
    assert np.isfinite(spectra).all()
    # Segments are networks of their own: what they say on either side of a seam must agree.
    clear = theta.copy()
    clear[:, [5, 9, 10]] = 0
    log_spectra = np.log(model.spectra(clear, 0.1))
    for seam in (5500.0, 7405.0):
        below = np.median(log_spectra[:, (model.wave_rest > 0.99 * seam) & (model.wave_rest < seam)], axis=1)
        above = np.median(log_spectra[:, (model.wave_rest < 1.01 * seam) & (model.wave_rest > seam)], axis=1)
        assert np.abs(above - below).max() < 0.1


@pytest.mark.published
def test_published_prospector_alpha_spectra(published_dir: Path) -> None:
    emulator = load_speculator((published_dir / "speculator").glob("*.pkl"), parameter_names=PROSPECTOR_ALPHA_PARAMETERS)
    assert emulator.wave_rest.size == 673 + 3929 + 630
    typical = np.array([[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, -5, np.log(10), 0, 1.0]])
    dusty = typical.copy()
    dusty[0, 7] = 1.5
    log_typical, log_dusty = emulator.log_spectra(typical)[0], emulator.log_spectra(dusty)[0]
    assert log_typical.max() - log_typical.min() < 15
    optical = (emulator.wave_rest > 1500) & (emulator.wave_rest < 10000)
    assert (log_dusty[optical] < log_typical[optical]).all()
    # Dust gives back in the infrared what it takes from the light of stars.
    assert log_dusty[emulator.wave_rest > 1e5].mean() > log_typical[emulator.wave_rest > 1e5].mean()
