"""The explorer: a local web page on which posteriors answer while photometry is dragged."""
