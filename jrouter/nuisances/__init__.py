"""Estimates that scores are built from: propensities and outcomes, cross-fitted."""
