"""What the savings of this package are worth, each measured against the usual way in the same run."""

from .encoder import Clips, Way, benchmark_encoder, describe_encoder, list_ways, time_contexts
from .heads import benchmark_heads

__all__ = ["Clips", "Way", "benchmark_encoder", "benchmark_heads", "describe_encoder", "list_ways", "time_contexts"]
