"""Priors: networks over grids of latents. One file per network, all with one contract.

A file defines `class Model(nn.Module)` with at least the fields (the program sets the first three)

    latent: Codes              of which it learns the distribution, see vqjax/latents.py: its grid
                               in raster order is the sequence, L = latent.length, and the network
                               predicts for each position the codes 0 .. K-1 of its own book,
                               K = latent.size
    rows: int                  of the input embedding: codes of all books as `latent.numbered` has
                               them, then (mask id), then prefix tokens
    causal: bool               whether a position sees latents of earlier steps only, or all
    dtype: str = "float32"     compute dtype; predictions are float32

    prior(inputs, prefix_BP=None, *, time_B=None, train) -> prediction

- Over codes, `inputs` are ids `[B, L]` and predictions logits `[B, L, K]`. A network over floats
  (`latent: Floats`) takes vectors `[B, L, D]` in their place and predicts a vector `[B, L, R]` for
  each position, R = `outputs`, which the program sets; all else is the same. `takes` names the
  kinds of latents that it is for, "codes" and "floats"; codes alone where it does not say.
- `prediction[:, i]` is always about latent i. A causal network goes over the latents in the steps
  `latent.places`, one latent a step or several, and shifts its input itself: step 0 sees the prefix
  alone (or a learned start vector where the prefix is empty), step s sees the prefix and the
  latents of steps 0 .. s-1. Nobody outside ever shifts. A bidirectional network reads as many
  latents together as a step has, and sees all.
- `prefix_BP` holds tokens of the same embedding (the task adds the offset): class, text,
  segmentation map, coarser codes and image prompts are all prefixes. A negative prefix token is a
  hole: it contributes a learned null vector (guidance drops the condition by setting the prefix to
  -1). The program sets `max_prefix: int`, `prefix_grid: tuple[int, ...]` (the shape of a coarser
  grid at the prefix's end) and `modulation: str` ("adaln" for schemes that tell a time) where they
  are fields.
- A causal network that can predict its prefix too (text, arXiv 2102.12092) has the field
  `prefix_rows: int`. The program sets it: R, how many rows at the embedding's end belong to prefix
  tokens, or 0 where none is predicted. If it is not 0, the network defines
  `joint(inputs, prefix_BP, *, train) -> (prediction, prefix_logits_BPR)`: prefix_logits[:, p] is
  about prefix token p, counted from the first of these rows, and sees prefix tokens 0 .. p-1.
- `time_B` is float32 in [0, 1], for diffusion; None elsewhere. For schemes of two times
  (`meanflow`) it is `[B, 2]`, the earlier first; networks over codes alone need not know.
- Causal networks with a cache define `init_cache(batch, prefix_length) -> cache`, and
  `prefill(prefix_BP, cache) -> (prediction_BJK, cache)` (of step 0), `decode(ids_BJ, index,
  cache) -> (prediction_BJK, cache)` (takes the latents of step `index`, predicts those of step
  `index + 1`). `cached: bool` is a class attribute.
- A network whose logits are the same on every machine, in every batch, whole or stepwise, because
  they are integers, has a property `resolution: int | None`: they are multiples of 1 / resolution;
  None where its fields make it compute in floats.
- Sizes out of range raise UserError when the module is made, before anything is traced.
- Random stream: "dropout".
"""
