"""Autoencoders: from signals to latents and back, with the quantizer as a field. One file per
architecture.

A file defines `class Model(nn.Module)` with the fields

    quantizer: nn.Module = fields.member("quantizers")
    axes: int = fields.program(2)       number of grid axes: 1 sound, 2 images and maps, 3 video
    channels: int = fields.program(3)   of what it reads
    out_channels: int | None = fields.program(None)   of the reconstruction; None means `channels`
    dtype: str = "float32"              compute dtype; parameters are float32

`x` is `[B, ..., C]` in [-1, 1], with `axes` axes between batch and channels. A file that is made
for some numbers of axes only raises UserError for the others (`checks.axes`). Then

    model(x, *, train, step=None) -> (recon, Quantized)
    model.encode(x, *, train=False) -> z        latents before the quantizer
    model.decode(z, *, train=False) -> recon    from quantized latents
    model.tokens(x) -> ids                      codes, as training would assign them
    model.from_tokens(ids) -> recon
    model.latents(x, *, draw=False) -> z        floats for a prior over them, before the quantizer;
                                                absent where no single grid is quantized
    model.latents_width: int                    channels of these
    model.from_latents(z) -> recon              from these; a quantizer with codes quantizes them
    model.last_layer: tuple[str, ...]           path in params of the decoder's last layer, a kernel
                                                and a bias: the adaptive weight is measured there.
                                                None where the output is not linear in them
    model.factors: tuple[int, ...]              what each side of the grid must be a multiple of
    model.first: tuple[int, ...]                how many positions the first code stands for, where
                                                that is not the factor: 1 of causal time, whose side
                                                is 1 + a multiple
    model.halo: int | None      how many positions of the signal beyond its edge a tile needs, on
                                every side, for its inside to be encoded and decoded as in the
                                whole; None where norms or attention see the whole
    model.in_parts: {prediction: ((method, tiled), …)}    where something in it sees all codes (an
                                LSTM): the methods that "encode", "decode" and "reconstruct" are one
                                after the other, of which some can be computed in tiles and the
                                others, on one position for each code, on the whole; `halo` is that
                                of the former. May be missing
    model.grid(*size) -> tuple[int, ...]        the grid of codes of one example of this size

Most of these are the same for every encoder, quantizer and decoder: `_composite` has them as
functions, which a class takes as its methods.

- `recon` is float32 and is what the reconstruction loss takes: an image in about [-1, 1], or, with
  `out_channels=2*C`, the parameters of a likelihood (see `vqjax.signals.Likelihood`).
- A hierarchy returns tuples, coarse first: `ids`, `grid`, and `z` of `encode` and `decode` too. Its
  `Quantized` has a tuple of ids, and metrics carry the level's name.
- `__call__` and `decode` with `train=True` sow the input of the last layer as ("intermediates",
  "last_input").
- Variables outside "params" are in the collections "stats" (quantizers) and, where a norm needs it,
  "batch_stats".
- Random streams: "codes" (quantizer), "dropout".
- An architecture may take any size: then `grid` rounds up, `recon` has the size of `x`, and
  `decode` makes what whole codes make.
- A size that does not fit raises `UserError` naming the size, the factors and the remedy; a field
  out of range raises one when the model is made (`checks`).
"""
