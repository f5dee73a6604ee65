"""Choosing without target labels: label-free scores, the crowd's consensus, and the oracle.

Nothing is imported here, so that `selection.consensus` stays cheap: import the modules.
"""
