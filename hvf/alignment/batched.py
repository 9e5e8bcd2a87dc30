"""Many runs at once: subjects and seeds that share a shape train as one batched model, each a run of its own.

What `fit` does for one run is done for R with one matrix product per layer: `torch.func.vmap` over stacked parameters.
Each run has its own data, order, temperature, gradient norm and best epoch; AdamW, being elementwise, does not know of
the others. The gain is a GPU's, on which one run's products are too small to fill it.

Letters: R runs, N trials of a batch, C channels, T samples, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hvf.alignment.checkpoint import Alignment
from hvf.alignment.distribution import with_mmd
from hvf.alignment.epochs import MAX_LOG_SCALE, adamw, info_nce, seeded
from hvf.alignment.fitting import prepare
from hvf.alignment.inputs import new_brain
from hvf.alignment.members import fit
from hvf.alignment.training import Training
from hvf.alignment.training_set import TrainingSet
from hvf.config import SOLVED, Config, HvfError, MembersConfig
from hvf.models.posterior_mean import squared_error
from hvf.registry import FOUNDATION, FUSIONS
from hvf.runs import track, usable_cores
from hvf.training.cuda_graphs import Replayed, fast_products

Run = tuple[TrainingSet, Config]
MEAN = "posterior_mean."  # before the names of its tensors


def _shape(run: Run) -> tuple[Any, ...]:
    """What runs must have in common to train together; equal for seeds, and mostly for subjects, of one study."""
    data, config = run
    widths = [(name, *x_Md.shape[1:]) for name, x_Md in data.features.items()]
    train_N, _ = data.validation_split(config.align)
    settings = config.brain, config.fusion, config.targets, replace(config.align, seed=0)
    return settings, *data.trials.shape, len(train_N), tuple(widths)


def groups(runs: Sequence[Run], most: int | None = None) -> list[list[int]]:
    """Indices of the runs that can train together, at most `most` in a group (None: however many)."""
    alike: dict[Any, list[int]] = {}
    for i, run in enumerate(runs):
        alike.setdefault(_shape(run) if most != 1 else i, []).append(i)
    return [g[i : i + (most or len(g))] for g in alike.values() for i in range(0, len(g), most or len(g))]


def why_not_batched(config: Config) -> str | None:
    """Why runs of this configuration cannot train as one batched model, in words; None if they can."""
    name, targets = config.brain.encoder, config.targets
    if config.members != MembersConfig():
        return "several members are trained one after another"
    if name in SOLVED:
        return f"{name} is solved, not trained"
    if config.align.refit:
        return "with align.refit each is trained anew for a number of epochs of its own"
    if name in FOUNDATION:
        return f"encoder {name} is large, and its runs share no step"
    if targets.views or targets.text:
        return "views and captions of images are drawn for one run alone"
    if config.align.mode == "retrieval" and FUSIONS[config.fusion.kind].weighs_targets:
        return f"fusion {config.fusion.kind} follows each run's validation losses between epochs"
    if config.brain.person_layer:
        return "the layers of people belong to those of one run"
    with torch.device("meta"):
        brain = new_brain(config, config.brain.width, 64, 256)  # of whatever shape
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in brain.modules()):
        return f"encoder {name} has batch normalisation, whose running statistics are no parameters"
    return None


def fit_together(runs: Sequence[Run], device: str | torch.device = "cpu") -> list[Alignment]:
    """Fit all runs, which differ in subject and seed alone, as one batched model.

    Without dropout or input noise each is as `fit` alone gives it, within rounding. With them it is another draw: the
    runs share the generator from which they are drawn (first run's seed). Raises HvfError as `fit` does, and, naming
    why, if the runs cannot train together.
    """
    if len(runs) < 2:
        return [fit(data, config, device) for data, config in runs]
    shape = _shape(runs[0])
    for run in runs:
        why = why_not_batched(run[1])
        if why is None and _shape(run) != shape:
            why = "they differ in more than subject and seed (settings, rows, channels, samples or features)"
        if why:
            raise HvfError(f"runs cannot train together: {why}; train them one after another")
    trainings, generators = [], []
    with ThreadPoolExecutor(usable_cores()) as threads:  # for a GPU this is most of the time
        prepared = list(threads.map(lambda run: prepare(run[0], run[1], device), runs))
    for one in prepared:
        with seeded(one.config.align.seed, device):
            trainings.append(one.start())
            generators.append(torch.Generator().set_state(torch.get_rng_state()))  # orders go on as `fit`'s do
    align = runs[0][1].align
    with seeded(align.seed, device):
        together = Together(trainings)
        for epoch in track(range(align.epochs), f"training {len(runs)} brain encoders at once"):
            together.run(epoch, generators)
    return together.finish()


class Together:
    """R trainings whose parameters are rows of stacked ones; each run has its own data, validation and result."""

    def __init__(self, runs: list[Training]) -> None:
        self.runs, self.align, self.device = runs, runs[0].config.align, runs[0].x_NCT.device
        self.stacks = {name: self.stacked(name) for name in self.parameters(runs[0])}
        fixed = {"log_scale"} if not self.align.learn_temperature else set[str]()
        if runs[0].posterior_mean is not None:
            fixed |= {f"{MEAN}{name}" for name, _ in runs[0].posterior_mean.named_buffers()}
        learnt = [p for name, p in self.stacks.items() if name not in fixed]
        self.optimizer, self.schedule = adamw(learnt, self.align, runs[0].batches, stacked=True)
        # Which trials are of one image, where that happens in any run.
        every = [
            torch.arange(len(run.image_N), device=self.device) if run.same_N is None else run.same_N for run in runs
        ]
        self.same_R = every if any(run.same_N is not None for run in runs) else None
        dims = (0, 0, 0, 0 if self.same_R else None)
        self.mmd_share = 0.0
        self.losses_R = vmap(self.loss, in_dims=dims, randomness="different")
        self.replayed = Replayed(self.update, self.device)

    @staticmethod
    def parameters(run: Training) -> dict[str, Tensor]:
        modules = {"brain": run.brain} | ({"fusion": run.fusion} if run.fusion_learns else {})
        named = {f"{room}.{name}": p for room, module in modules.items() for name, p in module.named_parameters()}
        if run.posterior_mean is not None:  # its scale, too, is each run's own
            named |= {f"{MEAN}{name}": x for name, x in run.posterior_mean.state_dict(keep_vars=True).items()}
        return named | {"log_scale": run.log_scale}

    def stacked(self, name: str) -> Tensor:
        """The parameter of all runs, (R, ...), of which each run's own becomes a view."""
        own = [self.parameters(run)[name] for run in self.runs]
        stack = torch.stack([p.detach() for p in own])
        for p, row in zip(own, stack, strict=True):
            p.data = row
        return stack.requires_grad_()

    def loss(self, parameters: dict[str, Tensor], x_NCT: Tensor, target: Any, same_N: Tensor | None) -> Tensor:
        """What one run's step lowers; `target`: z_f (N, D), or the features that its own fusion takes."""
        run = self.runs[0]
        z_b_ND = functional_call(run.brain, _part(parameters, "brain."), (x_NCT,))
        z_f_ND = functional_call(run.fusion, _part(parameters, "fusion."), (target,)) if run.fusion_learns else target
        loss = info_nce(z_b_ND, z_f_ND, parameters["log_scale"], same_N, self.align.loss, self.align.unit_length)
        if self.mmd_share:
            loss = with_mmd(loss, z_b_ND, [(torch.ones((), device=self.device), z_f_ND)], same_N, self.mmd_share)
        if run.posterior_mean is not None:
            mean_ND = functional_call(run.posterior_mean, _part(parameters, MEAN), (z_b_ND,))
            loss = loss + self.align.mean_weight * squared_error(mean_ND, z_f_ND, parameters[f"{MEAN}sd_D"])
        return loss

    def run(self, epoch: int, generators: Sequence[torch.Generator]) -> None:
        """One pass over each run's training rows, in its own order, then each run's validation."""
        share = self.runs[0].mmd_share_of(epoch)
        if share != self.mmd_share:
            self.mmd_share, self.replayed = share, Replayed(self.update, self.device)
        for run in self.runs:
            run.brain.train()
            run.fusion.train(run.fusion_learns)
            if run.posterior_mean is not None:
                run.posterior_mean.train()
        orders = [run.order(generator) for run, generator in zip(self.runs, generators, strict=True)]
        losses_R = torch.stack([self.step(rows_R) for rows_R in zip(*orders, strict=True)]).mean(0)
        for run, loss in zip(self.runs, losses_R.tolist(), strict=True):
            run.judge(epoch, loss)

    def step(self, rows_R: Sequence[Tensor]) -> Tensor:
        """One update of every run by the trials of its rows; the losses before it, (R,)."""
        resident = all(run.x_NCT.resident for run in self.runs)
        losses_R = self.replayed(*rows_R) if resident else self.update(*rows_R)
        self.schedule.step()
        return losses_R

    def update(self, *rows_R: Tensor) -> Tensor:
        with fast_products(self.device):
            return self._update(rows_R)

    def _update(self, rows_R: Sequence[Tensor]) -> Tensor:
        pairs = list(zip(self.runs, rows_R, strict=True))
        x_RNCT = torch.stack([run.inputs(rows) for run, rows in pairs])
        targets = [self.target(run, run.image_N[rows]) for run, rows in pairs]
        same_RN = self.same_R and torch.stack([same_N[rows] for same_N, rows in zip(self.same_R, rows_R, strict=True)])
        losses_R = self.losses_R(self.stacks, x_RNCT, _stack(targets), same_RN)
        self.optimizer.zero_grad(set_to_none=True)
        losses_R.sum().backward()
        self.clip()
        self.optimizer.step()
        if self.align.learn_temperature:
            with torch.no_grad():
                self.stacks["log_scale"].clamp_(max=MAX_LOG_SCALE)
        return losses_R.detach()

    @staticmethod
    def target(run: Training, image_N: Tensor) -> Any:
        """z_f (N, D) if it is frozen, else {spec: (N, d)} that the run's fusion takes."""
        return run.standardised(run.features(image_N)) if run.fusion_learns else run.images(image_N)

    @torch.no_grad()
    def clip(self) -> None:
        """Each run's gradient to its own largest norm, as `clip_grad_norm_` does it for one."""
        learnt = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in learnt if p.grad is not None]
        norm_R = torch.stack([g.flatten(1).norm(dim=1) if g.ndim > 1 else g.abs() for g in gradients]).norm(dim=0)
        factor_R = (self.align.clip_norm / (norm_R + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factor_R.view(-1, *[1] * (g.ndim - 1)))

    def finish(self) -> list[Alignment]:
        for run in self.runs:
            for p in self.parameters(run).values():
                p.data = p.data.clone()  # no view any more, which would hold all runs' weights
        return [run.finish() for run in self.runs]


def _part(parameters: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): p for name, p in parameters.items() if name.startswith(prefix)}


def _stack(targets: Sequence[Any]) -> Any:
    if isinstance(targets[0], Tensor):
        return torch.stack(list(targets))
    return {spec: torch.stack([target[spec] for target in targets]) for spec in targets[0]}
