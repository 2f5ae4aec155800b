"""Importers: published weights to our configs and variables, and back. One file per format.

`torch_file.load(path)` reads {name: array} without executing what a file holds. A format's file
defines

    read(state, options) -> (config, variables)

- `config` is what `build` takes; every size is inferred from the tensors' shapes.
- `variables` is the flax tree in numpy, complete: {"params": …, "stats": …}.
- `options` holds what the tensors do not tell, as strings (`--option name=value`) or values.
- A tensor that is missing, extra or misshapen raises a `UserError` that names it.

and, where weights go back, `write(config, variables) -> state`, with the very tensors that were
read.
"""
