"""Comparisons that a user can repeat: python -m vqjax.bench --suite=NAME.

One file each, with `main(argv)`.
"""
