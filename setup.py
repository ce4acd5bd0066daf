"""What setup.cfg cannot say: the sampler's C source, without which sedcast samples with NumPy."""

from setuptools import Extension, setup

# A plain shared library, loaded by path: it knows nothing of Python.
kernel = Extension(
    "sedcast.posterior._flow_kernel",
    ["posterior/_flow_kernel.c"],
    extra_compile_args=["-O3", "-ffp-contract=fast", "-fno-math-errno"],
    optional=True,
)
setup(ext_modules=[kernel])
