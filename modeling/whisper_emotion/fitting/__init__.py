"""Fitting: a linear classifier by L-BFGS, learned heads side by side on stored frames, encoders by the Trainer.

All three ways share one loss (`losses`) and one selection on held-out speakers (`selection`).
"""
