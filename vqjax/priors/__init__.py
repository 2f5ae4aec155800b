"""Priors: networks over grids of codes. One file per network, all with one contract.

A file defines `class Model(nn.Module)` with at least the fields

    vocab_size: int            rows of the input embedding: codes, then (mask id), then prefix tokens
    out_size: int              V: the network predicts codes 0 .. V-1
    grid: tuple[int, ...]      shape of the code grid; the sequence is the grid in raster order, L = prod(grid)
    causal: bool               whether logits at position i see ids before i only, or all ids
    dtype: str = "float32"     compute dtype; logits are float32

    prior(ids_BL, prefix_BP=None, *, time_B=None, train) -> logits_BLV

- `logits_BLV[:, i]` is always about `ids_BL[:, i]`. A causal network shifts its input itself:
  position 0 sees the prefix alone (or a learned start vector where the prefix is empty), position i
  sees the prefix and ids 0 .. i-1. Nobody outside ever shifts.
- `prefix_BP` holds tokens of the same embedding (the task adds the offset): class, text,
  segmentation map, coarser codes and image prompts are all prefixes. A negative prefix token is a
  hole: it contributes a learned null vector (guidance drops the condition by setting the prefix to
  -1).
- `time_B` is float32 in [0, 1], for diffusion over codes; None elsewhere.
- Causal networks with a cache define `init_cache(batch, prefix_length) -> cache`, and
  `prefill(prefix_BP, cache) -> (logits_BV, cache)` (the distribution of code 0), `decode(ids_B,
  index, cache) -> (logits_BV, cache)` (takes code `index`, returns the distribution of code `index
  + 1`). `cached: bool` is a class attribute.
- Random stream: "dropout".
"""
