"""SSP libraries, filters, catalogues, noise models, artifacts."""
