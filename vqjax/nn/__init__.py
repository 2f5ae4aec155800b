"""Pieces that several families share: layers, attention, codebook search, losses, perceptual
distances.
"""
