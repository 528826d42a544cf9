"""Your own objective: a relativistic GAN with its own start, turn and end of iteration.

d2o finetune --import own_objective.py --recipe relativistic --from digits-teacher --data digits --out runs/relativistic
"""

from dataclasses import dataclass, replace

from torch.nn.functional import softplus

from d2o.objectives import OBJECTIVES, Objective, Turn
from d2o.training.recipes import D2O, DIGITS, RECIPES


@dataclass(frozen=True)
class Relativistic(Objective):
    kind: str = "relativistic"
    needs = ("discriminator",)

    def prepare(self, student):  # start from less noise than the default 80
        return student.replace(preconditioning=replace(student.preconditioning, sigma_max=10.0), one_step=True)

    def lead(self, networks, batch):  # how much more real the real images look than the student's [N]
        fake = networks.student(10.0 * batch.noise("relativistic"), 10.0, batch.condition)
        real, fake = (networks["discriminator"](images, batch.condition)[0].mean(1) for images in (batch.x0, fake))
        return real - fake

    def __call__(self, networks, batch):  # the student's loss per image [N]
        return softplus(self.lead(networks, batch))

    def turns(self, networks):  # the discriminator's turn, after the student's
        return [Turn("discriminator", lambda *scene: softplus(-self.lead(*scene)), "discriminator")]

    def after(self, networks, step):  # a small step back to the average, which stabilises training
        for own, average in zip(networks.student.parameters(), networks.ema.parameters()):
            own.data.lerp_(average, 0.01)


OBJECTIVES["relativistic"] = Relativistic
RECIPES["relativistic"] = replace(D2O, **{**DIGITS, "objectives": (Relativistic(),)})
