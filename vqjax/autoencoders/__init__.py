"""Autoencoders: from images to latents and back, with the quantizer as a field. One file per
architecture.

A file defines `class Model(nn.Module)` with a field `quantizer: nn.Module` and the field `dtype:
str = "float32"` (compute dtype; parameters are float32). `x` is `[B, H, W, C]` in [-1, 1]. Then

    model(x, *, train, step=None) -> (recon, Quantized)
    model.encode(x, *, train=False) -> z        latents before the quantizer
    model.decode(z, *, train=False) -> recon    from quantized latents
    model.tokens(x) -> ids                      codes, as training would assign them
    model.from_tokens(ids) -> recon
    model.last_layer: tuple[str, ...]           path in params of the decoder's last convolution ({"kernel", "bias"}):
                                                VQGAN's adaptive weight is measured there
    model.factor: int                           H and W must be multiples of it
    model.grid(H, W)                            the shape(s) of the code grid of one image

- `recon` is float32 and is what the reconstruction loss takes: an image in about [-1, 1], or, with
  `out_channels=2*C`, the parameters of a likelihood (see `nn.losses.to_image`).
- A hierarchy returns tuples, coarse first: `ids`, and `z` of `encode` and `decode` too. Its
  `Quantized` has a tuple of ids, and metrics carry the level's name.
- `__call__` with `train=True` sows the input of the last convolution as ("intermediates",
  "last_input").
- Variables outside "params" are in the collections "stats" (quantizers) and, where a norm needs it,
  "batch_stats".
- Random streams: "codes" (quantizer), "dropout".
- A size that does not fit raises `UserError` naming the size, the factor and the remedy.
"""
