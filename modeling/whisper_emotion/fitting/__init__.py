"""Fit linear heads by L-BFGS, learned heads in parallel on stored frames, and encoders with the Trainer.

All three share one loss (`losses`) and one selection on held-out speakers (`selection`).
"""
