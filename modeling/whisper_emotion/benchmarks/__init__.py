"""Measure the savings of this package, each against the usual way in the same run."""
