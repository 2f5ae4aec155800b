"""Embedders: images or captions to vectors. One file each, all with one contract.

A file defines `class Model(nn.Module)`; its dataclass fields are what a config may set. Then

    embedder(values) -> [B, features]      float32, of any length
    embedder.reads: str                    class attribute: the batch's field that it embeds

- Of "image" `values` are float32 `[B, *size, channels]` in [-1, 1]; the program sets `size` and
  `channels`. Of "text" they are ids int32 `[B, length]` below `vocabulary`, -1 after a caption's
  end; the program sets `vocabulary` and `length`.
- The program sets `features`, the same for both of a pair.
- Sizes out of range raise UserError when the module is made, before anything is traced.
"""
