"""A stage that ``torch.distributed.fsdp.fully_shard`` was called on: gathered, and its gradients reduced, when told to.

FSDP2 reduces at the end of a backward, by hooks that stand on the way to the stage's inputs; where gradients of weights
come later, in W, they see none of them. So its hooks are told to keep all that was gathered and to reduce nothing, and
what they would do at the end of a backward is done once, behind the stage's last. There are no public functions for
that: PyTorch's own pipeline runtime calls the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
import torch.distributed as dist

from schedverify.runner.compute.replicas import Replicas
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.waiting import begin, wait

_SETTINGS: Final = "reduce_grads", "all_reduce_grads", "reshard_after_backward", "post_forward_mesh_info"
"""What a group of weights is told of reductions, and whether it frees what was gathered behind a forward."""
_OF_STATE: Final = "_fsdp_param_groups", "_lazy_init", "_root_post_backward_final_callback", "_state_ctx"
_OF_GROUP: Final = *_SETTINGS, "fsdp_params", "device", "mesh_info"
_OF_WEIGHT: Final = "sharded_param", "unsharded_accumulated_grad", "to_accumulated_grad_if_needed"


class ShardedReplicas(Replicas):
    """A sharded stage, with all that is sharded inside it.

    Parameters
    ----------
    by_plan
        Whether the rank's order has an ``UNSHARD`` for the stage; else its weights are gathered throughout a step.
    """

    def __init__(self, module: Any, place: str, timeout: float, *, by_plan: bool) -> None:
        self._module, self._by_plan = module, by_plan
        self._units = _units_of(module)
        self._state = module._get_fsdp_state()
        states = {id(state): state for state in (unit._get_fsdp_state() for unit in self._units)}
        self._weight_groups = [group for state in states.values() for group in state._fsdp_param_groups]
        self._before: list[tuple[Any, tuple[Any, ...]]] = []
        """Between ``begin`` and ``rest``, groups of weights with their settings outside of steps."""
        meshes = {weights.mesh_info.mesh: None for weights in self._weight_groups}
        groups = {id(group): group for mesh in meshes for group in mesh.get_all_groups()}
        super().__init__(module, list(groups.values()), place, timeout)
        self.reshard()  # a forward outside of steps may have left it gathered, and parameters are the parts

    def begin(self) -> None:
        """Begin a step: nothing is reduced or freed by hooks; the weights are gathered, where the plan does not say."""
        super().begin()
        self._state._lazy_init()  # it sets settings, once: those that are to be kept
        self._before = [(each, tuple(getattr(each, name) for name in _SETTINGS)) for each in self._weight_groups]
        self._tell(is_last=False)
        for group in self._weight_groups:
            group.post_forward_mesh_info = None
        if not self._by_plan:
            self._calling("gathering its weights", self.unshard)

    def unshard(self) -> None:
        """Gather the weights of the stage and of all that is sharded inside it."""
        for unit in self._units:
            unit.unshard()

    def reshard(self) -> None:
        """Free what was gathered."""
        for unit in self._units:
            unit.reshard()

    def settle(self) -> None:
        """Add gradients up in the dtype that they are reduced in, as hooks do at the end of a backward."""
        self._state._root_post_backward_final_callback()

    def reduce(self) -> Callable[[], None]:
        """Average the gradients, and give each replica its part of them."""
        self._reduced = True
        self.settle()
        self._agree_on_used()
        self._tell(is_last=True)
        self._calling("mean of gradients over its replicas", self.settle)
        return lambda: None

    def rest(self) -> None:
        """Have the module's parameters be this replica's part, and hooks do what they do outside of steps."""
        for group, settings in self._before:
            for name, value in zip(_SETTINGS, settings, strict=True):
                setattr(group, name, value)
        self._before = []
        self._module.set_is_last_backward(True)
        self.reshard()

    def _tell(self, *, is_last: bool) -> None:
        self._module.set_is_last_backward(is_last)
        self._module.set_requires_gradient_sync(is_last)
        self._module.set_reshard_after_backward(is_last)

    def _agree_on_used(self) -> None:
        """Give weights a gradient of zeros that another replica has one for; FSDP2 takes it that all have the same.

        Those that none has used keep None.
        """
        by_mesh: dict[Any, list[Any]] = {}
        for group in self._weight_groups:
            trained = [each for each in group.fsdp_params if each.sharded_param.requires_grad]
            by_mesh.setdefault(group.mesh_info.mesh, []).extend(trained)
        what = f"{self._place}, which weights its replicas used"
        for mesh, weights in by_mesh.items():
            used = torch.tensor([_has_gradient(each) for each in weights], dtype=torch.int32)
            used = used.to(self._weight_groups[0].device)
            for group in mesh.get_all_groups():
                reduction = partial(dist.all_reduce, used, dist.ReduceOp.MAX, group=group, async_op=True)
                wait(begin(reduction, what), what, self._timeout)
            for weight, by_any in zip(weights, used.tolist(), strict=True):
                if by_any and not _has_gradient(weight):
                    weight.unsharded_param.grad = torch.zeros_like(weight.unsharded_param)
                    weight.to_accumulated_grad_if_needed()

    def _calling(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except RuntimeError as error:
            raise RunError(f"{self._place}, {what}: {type(error).__name__}: {error}") from error


def _has_gradient(weight: Any) -> bool:
    return weight.unsharded_accumulated_grad is not None or weight.unsharded_param.grad is not None


def frees_behind_forward(module: Any) -> bool:
    """Whether FSDP2 itself frees weights of a stage behind a forward, by default those of parts sharded themselves."""
    for unit in _units_of(module):
        state = unit._get_fsdp_state()
        is_kept = unit is module and state._auto_reshard_after_forward
        if not is_kept and any(group.post_forward_mesh_info is not None for group in state._fsdp_param_groups):
            return True
    return False


def _units_of(module: Any) -> list[Any]:
    """Return the modules that ``fully_shard`` was called on, the stage itself first."""
    return [each for each in module.modules() if hasattr(type(each), "_get_fsdp_state")]


def what_lacks(module: Any) -> str:
    """Return a name that is used here and that this torch's ``fully_shard`` does not have; empty where it has all."""
    state = module._get_fsdp_state()
    lacking = [name for name in _OF_STATE if not hasattr(state, name)]
    for group in () if lacking else state._fsdp_param_groups:
        lacking += [name for name in _OF_GROUP if not hasattr(group, name)]
        weights = () if lacking else group.fsdp_params
        lacking += [name for name in _OF_WEIGHT for weight in weights if not hasattr(weight, name)]
    return lacking[0] if lacking else ""
