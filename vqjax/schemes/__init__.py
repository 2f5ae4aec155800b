"""Generative schemes: how latents are corrupted for training and drawn for sampling. They know no
network.

A file defines a frozen dataclass `Scheme`, whose fields a config may set; the program sets
`latent`, of vqjax.latents. It has

    takes: tuple[str, ...]                      the kinds of latents that it is for, "codes" and
                                                "floats"; codes alone where it does not say
    outputs: int                                of floats: channels that the network predicts
    guided: int                                 of floats: how many of them guidance moves, the
                                                first ones; all where it does not say
    extra_ids: int                              ids beyond the codes (1 with a mask, else 0)
    causal: bool                                which kind of network it needs
    timed: bool                                 whether the network is told the time
    options: {name: type}                       what a user may give `sample` beside a `Draw`
    times_told: int                             how many times it is told, [B] or [B, times_told];
                                                1 where it does not say
    corrupt(key, latent_BL) -> Corrupted        what the network is shown and asked in training
    loss(prediction, corrupted) -> Loss         per position
    objective(key, network, latent) -> Loss     in the place of these two, where the loss itself
                                                differentiates the network
    plan(known_BL) -> {name: value}             static options of `sample` that follow from what is
                                                known (NumPy, on the host); pass them on; absent
                                                where nothing does
    sample(key, network, latent_BL, known_BL, draw=Draw(), *, trajectory=False, **options, **plan)
        -> latent_BL
    bound(key, network, latent_BL) -> nats_BL   whose mean over keys is at least -log p in total, of
                                                floats an estimate of it, as a density of the
                                                tokenizer's own latents; absent where none is known
    window(key, full, ids_BHW, known_BHW, draw) -> ids_BHW      draws a larger grid than the
                                                latent's, see `autoregressive`; absent where none is
    exact: bool                                 whether it is -log p itself, whatever the key

- `latent_BL` is a sequence as `latent.flatten` makes it: codes int32 [B, L] (or floats [B, L, D]).
- `network` is a record of functions (see `Network`), closed over parameters and condition; guidance
  is applied by whoever builds the record (see `_guidance.guided`), so no scheme knows of it. Its
  predictions [B, L, K] are over the codes of each position's own book; logits beyond these are
  ignored.
- `known_BL` is true where `latent_BL` is given: these are returned unchanged, whatever the scheme.
  None known is plain sampling, all but a region is inpainting, the first half is completion.
- `sample` is one compiled loop: call it under `jit`; all after `draw` is static. An option out
  of range or of the wrong type raises UserError. With trajectory=True it returns (latent_BL,
  latent_SBL), the latents after every step, with the mask id where nothing is decided yet.
- `key` of `sample` may be an array of B keys: permuting keys, latents, known and condition permutes
  the samples. Example b of one key is the same in any batch size.
"""

from __future__ import annotations

from vqjax.schemes._draw import Draw
from vqjax.schemes._guidance import Guidance
from vqjax.schemes._records import Corrupted, Loss, Network

__all__ = ["MEMBER", "Corrupted", "Draw", "Guidance", "Loss", "Network"]

MEMBER = "Scheme"
