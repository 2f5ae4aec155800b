"""Evaluate: python -m vqjax.evaluate --workdir=runs/shapes [--data=PATH] [--limit=N] [--batch_size=N]

Goes over the whole held-out split of the run's data (or of --data), prints a table and writes evaluation.json into the
workdir, with the protocol that makes the figures comparable.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from vqjax import cli


def main(argv: Sequence[str]) -> None:
  parser = cli.parser(__doc__)
  parser.add_argument("--workdir", required=True, type=pathlib.Path)
  parser.add_argument("--data", metavar="PATH", help="local data instead of what the run was trained on")
  parser.add_argument("--limit", type=int, help="only the first N held-out examples")
  parser.add_argument("--batch_size", type=int, help="over all devices; the training batch size by default")
  args = parser.parse_args(argv)
  import jax

  from vqjax import api, data, measure, train, writers

  model = api.load(args.workdir)
  if args.data:
    model.config.data = data.resolve(args.data)
  figures = train.evaluate_split(model.run, model.state, args.limit, args.batch_size)
  count = data.num_examples(model.config.data, "eval")
  made = measure.measures(model.config.evaluators or model.run.task.evaluators, **model.run.task.known)
  result = {
      "figures": figures,
      "examples": min(count, args.limit or count),
      "data": model.config.data.to_dict(),
      "preprocessing": model.config.ops.to_dict(),
      "protocol": {name: m.protocol for name, m in made.items()},
      "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
  }
  if jax.process_index() == 0:
    (args.workdir / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    print(writers.table(["measure", "value"], [[k, f"{v:.5g}"] for k, v in figures.items()]))
    for name, protocol in result["protocol"].items():
      print(f"{name}: {protocol}")
    print(f"{result['examples']} held-out examples of {model.config.data.name}; written to {args.workdir / 'evaluation.json'}")


if __name__ == "__main__":
  cli.run(main)
