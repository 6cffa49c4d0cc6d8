"""Measure the savings of this package, each against the usual way in the same run."""

from .encoder import Clips, benchmark_encoder, describe_encoder, time_contexts
from .heads import benchmark_heads
from .ways import Way, list_ways

__all__ = ["Clips", "Way", "benchmark_encoder", "benchmark_heads", "describe_encoder", "list_ways", "time_contexts"]
