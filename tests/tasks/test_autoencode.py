"""The two-player loss: its gradients are those of the loss written out plainly, and every term is
logged.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights

from vqjax import bench, config as configuration
from vqjax.errors import UserError
from vqjax.nn import losses
from vqjax.tasks import Weights, autoencode

SPEC = {"image": jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8)}


def make(model="vqvae", **values):
  size = dict(hidden=8, residual_hidden=8, residual_blocks=1)
  if model == "vit":
    size = dict(patch=4, width=16, depth=1, heads=2, mlp_width=16, resolution=16)
  base = dict(
    model=dict(name=model, quantizer=dict(name="vq", codebook_size=8, dim=4), **size),
    disc=dict(name="patchgan", channels=8, n_layers=1),
    loss=dict(reconstruction="l1", feature_weight=0.5, adversarial_start=5),
  )
  return autoencode.make(configuration.complete(base | values), SPEC)


def setup(task):
  batch = {"image": jax.random.randint(jax.random.key(1), (4, 16, 16, 3), 0, 256).astype(jnp.uint8)}
  params, stats = weights.drawn(jax.eval_shape(task.init, jax.random.key(0), batch))
  return params, stats | {"lecam": losses.lecam_averages()}, batch


def test_gradients_equal_those_of_the_plain_loss():
  more = dict(lecam_weight=0.1, r1_weight=0.2, r1_every=7)
  task = make(loss=dict(reconstruction="l1", feature_weight=0.5, adversarial_start=5) | more)
  params, stats, batch = setup(task)
  key, run = jax.random.key(2), task.info.modules
  x = run.input(batch)

  def plain(params, step, scale):
    (recon, q), _ = run.model.apply(
      {"params": params["model"], **stats["model"]},
      x,
      train=True,
      step=step,
      mutable=list(stats["model"]),
      rngs={name: jax.random.fold_in(key, i) for i, name in enumerate(("codes", "dropout"))},
    )
    judge = lambda p, image: run.disc.apply(
      {"params": p, **stats["disc"]}, image, train=True, mutable=["batch_stats"]
    )[0]
    fixed = jax.lax.stop_gradient(params["disc"])
    logits, features = judge(fixed, recon)
    _, real = judge(fixed, x)
    on = jnp.where(step >= 5, 1.0, 0.0)
    model_loss = (
      q.loss + jnp.abs(recon - x).mean() + on * 0.5 * losses.feature_matching(real, features)
    )
    model_loss += scale * -logits.mean()
    on_real = lambda image: judge(params["disc"], image)[0]
    real, fake = on_real(x), on_real(jax.lax.stop_gradient(recon))
    disc_loss = losses.discriminator_loss("hinge", real, fake)
    means = jax.lax.stop_gradient((0.01 * real.mean(), 0.01 * fake.mean()))  # after one step from 0
    disc_loss += 0.1 * (jnp.square(real - means[1]).mean() + jnp.square(fake - means[0]).mean())
    slope = jax.grad(lambda image: on_real(image).sum())(x)
    disc_loss += 0.2 * 7 * jnp.square(slope).sum((1, 2, 3)).mean()
    return model_loss + disc_loss

  ours = jax.jit(jax.grad(task.loss, has_aux=True))
  theirs = jax.jit(jax.value_and_grad(plain))
  for step in (jnp.int32(0), jnp.int32(7)):
    grads, (_, metrics) = ours(params, stats, {}, batch, key, step)
    assert (metrics["adversarial/scale"] > 0) == (step >= 5)
    value, expected = theirs(params, step, metrics["adversarial/scale"])
    np.testing.assert_allclose(
      sum(v for k, v in metrics.items() if k.startswith("loss/")), value, rtol=1e-5
    )
    for player in ("model", "disc"):
      for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(grads[player]), jax.tree.leaves(expected[player])
      ):
        np.testing.assert_allclose(
          a, b, rtol=2e-3, atol=1e-6, err_msg=player + jax.tree_util.keystr(path)
        )


def test_without_an_adaptive_weight_one_pass_back_serves_all_terms():
  task = make(loss=dict(feature_weight=0.5, adversarial_weight=0.3, adaptive="none"))
  params, stats, batch = setup(task)
  run, x = task.info.modules, task.info.modules.input(batch)
  recon = 0.5 * x[::-1]

  def plain(recon):
    judge = lambda image: run.judge(params["disc"], stats["disc"], image)[0]
    (logits, features), (_, real) = judge(recon), judge(x)
    matching = losses.feature_matching(real, features)
    return jnp.square(recon - x).mean() + 0.5 * matching - 0.3 * logits.mean()

  @jax.jit
  def both(recon):
    ours = run._generator(params, stats, {}, recon, {}, x, jnp.int32(0))
    return ours[:2], jax.value_and_grad(plain)(recon)

  ours, theirs = both(recon)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), ours, theirs)


@pytest.mark.parametrize(
  "model, reconstruction", [("vqvae", "l2"), ("vit", "l2"), ("vqvae", "logit_laplace")]
)
def test_adaptive_weight_is_the_ratio_at_the_last_layer(model, reconstruction):
  """VQGAN's lambda from gradients of whole losses at the last kernel, taken through the whole
  model.
  """
  task = make(model, loss=dict(reconstruction=reconstruction, adversarial_weight=1.0))
  params, stats, batch = setup(task)
  _, (_, metrics) = jax.jit(task.loss)(params, stats, {}, batch, jax.random.key(2), jnp.int32(0))
  run = task.info.modules
  x = run.input(batch)

  def term(name):
    def loss(model_params):
      (recon, _), _ = run.model.apply(
        {"params": model_params, **stats["model"]},
        x,
        train=True,
        step=jnp.int32(0),
        mutable=list(stats["model"]),
        rngs={"codes": jax.random.fold_in(jax.random.key(2), 0)},
      )
      laplace = reconstruction == "logit_laplace"
      if name == "nll":
        return losses.logit_laplace(recon, x) if laplace else jnp.square(recon - x).mean()
      recon = losses.logit_laplace_mean(recon) if laplace else recon
      (logits, _), _ = run.disc.apply(
        {"params": params["disc"], **stats["disc"]}, recon, train=True, mutable=["batch_stats"]
      )
      return -logits.mean()

    def last_kernel(model_params):
      grads = jax.grad(loss)(model_params)
      for part in run.model.last_layer:
        grads = grads[part]
      return grads["kernel"]

    return np.linalg.norm(jax.jit(last_kernel)(params["model"]).ravel())

  np.testing.assert_allclose(
    metrics["adversarial/scale"], term("nll") / (term("gan") + 1e-4), rtol=1e-3
  )


def test_every_term_is_logged_weighted_and_not():
  task = make(loss=dict(feature_weight=0.5, lecam_weight=0.1, r1_weight=0.2, r1_every=2))
  params, begun, batch = setup(task)
  loss = jax.jit(task.loss)
  _, (stats, metrics) = loss(params, begun, {}, batch, jax.random.key(2), jnp.int32(2))
  for term in ("reconstruction", "features", "adversarial", "discriminator", "lecam", "r1"):
    assert {f"loss/{term}", f"raw/{term}"} <= metrics.keys()
  assert {"codes/usage", "codes/perplexity"} <= metrics.keys()
  np.testing.assert_allclose(metrics["loss/r1"], 0.2 * 2 * metrics["raw/r1"], rtol=1e-5)
  # Left out of every other step, R1 counts as if it were taken at its weight in all.
  _, (_, between) = loss(params, begun, {}, batch, jax.random.key(2), jnp.int32(3))
  taken = [float(m["loss/r1"]) for m in (metrics, between)]
  np.testing.assert_allclose(np.mean(taken), 0.2 * metrics["raw/r1"], rtol=1e-5)
  assert taken[1] == 0 and float(stats["lecam"]["real"]) != 0


@pytest.mark.parametrize("since", ["start", "adversarial_start"])
def test_before_its_start_the_adversary_is_not_computed(since):
  """The gradients are those of the whole loss, for fewer FLOPs."""
  task = make(loss=dict(feature_weight=0.5, adversarial_start=5, disc_from=since))
  params, stats, batch = setup(task)
  until, early = task.early
  assert until == 5
  key = jax.random.key(2)
  program = lambda loss: (
    jax.jit(jax.grad(loss, has_aux=True))
    .lower(params, stats, {}, batch, key, jnp.int32(4))
    .compile()
  )
  whole, short = program(task.loss), program(early)
  for step in (4, 5):
    grads, (_, metrics) = whole(params, stats, {}, batch, key, jnp.int32(step))
    learns = any(np.any(g) for g in jax.tree.leaves(grads["disc"]))
    assert learns == (step == 5 or since == "start")
    if step == 4:
      found, (_, fewer) = short(params, stats, {}, batch, key, jnp.int32(step))
      chex.assert_trees_all_close(found, grads, rtol=1e-4, atol=1e-6)
      assert fewer.keys() < metrics.keys()
      np.testing.assert_allclose(fewer["raw/reconstruction"], metrics["raw/reconstruction"], 1e-6)
  assert bench.flops(short) < bench.flops(whole)


def test_a_discriminator_sees_what_the_output_stands_for():
  """The likelihood has two output channels for each of the image, its mean as many as the image."""
  task = make(loss=dict(reconstruction="logit_laplace", perceptual_weight=0.0))
  run = task.info.modules
  batch = {"image": jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.uint8)}
  params, stats = jax.eval_shape(task.init, jax.random.key(0), batch)
  weights = Weights(params, stats, {})
  out = jax.eval_shape(task.predict["reconstruct"], weights, batch, jax.random.key(0))
  assert out["image"].shape == (4, 16, 16, 3) and run.model.out_channels == 6
  loss, _ = jax.eval_shape(task.loss, params, stats, {}, batch, jax.random.key(0), jnp.int32(0))
  assert loss.shape == ()
  recon = jnp.zeros((1, 2, 2, 6)) + 0.3
  np.testing.assert_allclose(run.judged(recon), losses.logit_laplace_mean(recon))


@pytest.mark.parametrize(
  "values, message",
  [
    (dict(disc=None, loss=dict(feature_weight=1.0)), "config.disc: feature_weight"),
    (
      dict(loss=dict(perceptual_weight=1.0)),
      "config.loss.perceptual_weight: 1.0 needs LPIPS weights",
    ),
    (dict(loss=dict(reconstruction="l3")), "config.loss.reconstruction: 'l3'"),
    (dict(loss=dict(gan_weight=1.0)), "config.loss.gan_weight: unknown field"),
  ],
)
def test_bad_settings_are_one_line(values, message):
  with pytest.raises(UserError, match=message) as e:
    make(**values)
  assert "\n" not in str(e.value)


def test_an_image_size_that_does_not_fit_is_one_line():
  config = configuration.complete(
    dict(model=dict(name="vqvae", downsamples=3, quantizer=dict(name="vq")))
  )
  with pytest.raises(UserError, match="12.*8"):
    autoencode.make(config, {"image": jax.ShapeDtypeStruct((4, 12, 16, 3), jnp.uint8)})
